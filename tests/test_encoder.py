"""Encoder: one text, one vector, whatever stands beside it; and pooling and text, which it is fed by."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.encoder import CPU, CUDA, Encoder, choose_provider, groups_of, open_tokenizer
from engine.errors import ArtefactError
from engine.generation import Generation, read_manifest
from engine.manifest import CENTRE, TOKENIZER, Variant
from engine.pooling import POOLINGS, Pooling, centre_rows, pool, unit
from engine.records import Item
from engine.text import FIELDS, MAX_CHARS, Template, item_text, text_hash
from tests import tiny_bert

pytest.importorskip("onnx", reason="wants the export extra, to write a graph")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A draft generation of eight items."""
    return tiny_bert.write_generation(tmp_path_factory.mktemp("encoder") / "draft")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    """Its encoder, on one thread."""
    return Encoder.open(folder, read_manifest(folder), providers=[CPU])


def test_rows_are_unit_and_finite(encoder: Encoder) -> None:
    """Every row has length 1, whatever the text: empty, long, of unknown words, of emoji."""
    rows = encoder.encode(["", "kaba " * 500, "??", "🙂 é 漢字", "kaba\x00lodo", *tiny_bert.texts(5)])
    assert rows.shape == (10, tiny_bert.DIMS)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("batching", ["equal_length", "single"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_text_does_not_depend_on_its_neighbours(tmp_path: Path, batching: str, threads: int) -> None:
    """A text's vector is bit for bit the same alone, among others, in another order, and with more threads."""
    folder = tiny_bert.write_generation(tmp_path / "draft", batching=batching)
    encoder = Encoder.open(folder, read_manifest(folder), threads=threads, providers=[CPU])
    texts = tiny_bert.texts(40, seed=9)
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(encoder.encode(texts[::-1])[::-1], together)


def test_no_texts_give_no_rows(encoder: Encoder) -> None:
    """An empty batch is no error."""
    assert encoder.encode([]).shape == (0, tiny_bert.DIMS)


def test_texts_are_cut_at_the_budget(encoder: Encoder) -> None:
    """What stands behind the token budget changes nothing, and no call is longer than it."""
    head = " ".join(tiny_bert.WORDS[:22])  # 24 tokens with [CLS] and [SEP]
    assert [len(t) for t in encoder.tokens([head, head + " kaba", "kaba"])] == [24, 24, 3]
    a, b = encoder.encode([head, head + " so much more"])
    np.testing.assert_array_equal(a, b)


def test_progress_counts_every_text_once(encoder: Encoder) -> None:
    """Progress adds up to the number of texts."""
    told: list[int] = []
    encoder.embed(tiny_bert.texts(21), told.append)
    assert sum(told) == 21


@given(st.lists(st.integers(1, 70), max_size=60), st.sampled_from(["equal_length", "single"]), st.integers(1, 300))
def test_groups_hold_each_text_once_and_one_length(lengths: list[int], batching: Any, most: int) -> None:
    """Calls partition the texts, mix no lengths, and stay within their tokens unless one text alone is longer."""
    groups = list(groups_of(lengths, Variant(batching=batching), most))
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len({lengths[i] for i in group}) == 1
        assert len(group) == 1 or (batching == "equal_length" and sum(lengths[i] for i in group) <= most)


def test_the_provider_is_chosen_for_a_reason() -> None:
    """CUDA serves only where it was not ruled out, is listed, has a driver, and the variant is of floats."""
    int8 = Variant(precision="int8", batching="single")
    for wanted, listed, variant, driver, expected in [
        (None, [CUDA, CPU], Variant(), True, CUDA),
        ([CUDA, CPU], [CUDA, CPU], Variant(), True, CUDA),
        ([CPU], [CUDA, CPU], Variant(), True, CPU),
        (None, [CPU], Variant(), True, CPU),
        (None, [CUDA, CPU], int8, True, CPU),
        (None, [CUDA, CPU], Variant(), False, CPU),
    ]:
        provider, why = choose_provider(wanted, listed, variant, (lambda: True) if driver else (lambda: False))
        assert provider == expected
        assert why


def test_a_cuda_that_fails_is_not_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where CUDA is listed and cannot be started, the CPU serves, and the log says why."""
    real = ort.InferenceSession

    def session(path: str, options: Any, providers: list[Any]) -> Any:
        if providers != [CPU]:
            raise RuntimeError("libcudnn.so.9 not found")
        return real(path, options, providers=providers)

    monkeypatch.setattr(ort, "InferenceSession", session)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr("engine.encoder.choose_provider", lambda *_: (CUDA, "listed"))
    with caplog.at_level("INFO", logger="engine.encoder"):
        opened = Encoder.open(folder, read_manifest(folder))
    assert opened.provider == CPU
    assert "libcudnn" in caplog.text


def test_cuda_without_its_libraries(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where ONNX Runtime quietly takes the CPU, the log says which library was not found; nothing is printed on the standard output."""
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda path, options, providers: real(path, options, providers=[CPU]))
    monkeypatch.setattr(ort, "preload_dlls", lambda: sys.stdout.write("Failed to load libcublasLt.so.13\n"))
    monkeypatch.setattr("engine.encoder.choose_provider", lambda *_: (CUDA, "listed"))
    with caplog.at_level("INFO", logger="engine.encoder"):
        opened = Encoder.open(folder, read_manifest(folder))
    assert opened.provider == CPU
    assert "CUDA could not be loaded: Failed to load libcublasLt.so.13" in caplog.text
    assert capsys.readouterr().out == ""


def test_a_graph_of_other_dimensions_is_refused(folder: Path, tmp_path: Path) -> None:
    """An encoder whose width is not the manifest's never serves."""
    tiny_bert.write_graph(tmp_path / "wide.onnx", dims=48)
    tokenizer = open_tokenizer(folder / TOKENIZER, 8)
    with pytest.raises(ArtefactError, match="48 dimensions"):
        Encoder.start(tmp_path / "wide.onnx", tokenizer, Variant(file="wide.onnx"), pooling="mean", dims=32, providers=[CPU])


@pytest.mark.parametrize("broken", ["model-fp32.onnx", TOKENIZER, CENTRE])
@pytest.mark.parametrize("content", [None, b"", b"\x00garbage"])
def test_broken_files_are_artefact_errors(tmp_path: Path, broken: str, content: bytes | None) -> None:
    """A missing, empty or damaged file is named in one ArtefactError."""
    folder = tiny_bert.write_generation(tmp_path / "draft")
    (folder / broken).unlink()
    if content is not None:
        (folder / broken).write_bytes(content)
    with pytest.raises(ArtefactError) as caught:
        Encoder.open(folder, read_manifest(folder), providers=[CPU])
    assert broken in caught.value.found
    assert caught.value.remedy


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_never_counts(pooling: Pooling) -> None:
    """Pooling a padded batch equals pooling each text alone: training pads, serving does not."""
    draw = np.random.default_rng(0)
    hidden = draw.normal(size=(3, 6, 4)).astype(np.float32)
    mask = np.array([[1] * n + [0] * (6 - n) for n in (6, 3, 1)])
    hidden[mask == 0] = np.nan
    together = pool(hidden, mask, pooling)
    for row, length in enumerate((6, 3, 1)):
        alone = pool(hidden[row : row + 1, :length], np.ones((1, length), np.int64), pooling)
        np.testing.assert_allclose(together[row], alone[0], atol=1e-6)


def test_poolings_are_those_of_the_manifest() -> None:
    """The table of poolings and the type say the same."""
    assert get_args(Pooling) == POOLINGS


def test_a_zero_row_stays_zero() -> None:
    """A row that centring makes zero (a catalogue of one text) is zero, not NaN."""
    rows = unit(np.ones((1, 4)))
    np.testing.assert_array_equal(centre_rows(rows, rows[0]), np.zeros((1, 4)))


@given(st.text(max_size=50).filter(str.strip), st.text(max_size=200), st.lists(st.text(max_size=9), max_size=4))
def test_a_text_starts_with_its_title(title: str, description: str, tags: list[str]) -> None:
    """The title stands first, the text is of bounded length and without line ends, and its hash is 16 hex digits."""
    text = item_text(Item("i", title, description, tags=tuple(tags)))
    assert text.startswith(" ".join(title.split()))
    assert len(text) <= MAX_CHARS
    assert text == " ".join(text.split())
    assert len(text_hash(text)) == 16


def test_a_huge_description_is_bounded() -> None:
    """A description of a megabyte costs no more than the most characters that are looked at, and the title stays."""
    text = item_text(Item("i", "Title", "word " * 200_000, categories=("A",)))
    assert text.startswith("Title A word")
    assert len(text) <= MAX_CHARS


def test_templates_survive_their_version_string() -> None:
    """A template is read back from the one string that a manifest carries; an unknown one is refused."""
    for template in (Template(), Template(("title",), " - "), Template(FIELDS[:2], "; ")):
        assert Template.parse(template.version) == template
    for version in ("", "v2|. |title", "v1|. |tags", "v1|. |title,price", "v1"):
        with pytest.raises(ArtefactError, match="unknown_text_template"):
            Template.parse(version)


def test_memory_is_bounded_by_the_call(folder: Path) -> None:
    """A generation opened twice shares no state: two encoders give the same rows."""
    texts = tiny_bert.texts(6)
    one, two = (Encoder.open(folder, read_manifest(folder), providers=[CPU]).encode(texts) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.timeout(120)
def test_minilm_gives_its_golden_vector(tmp_path: Path) -> None:
    """The default checkpoint, exported, gives the vectors that torch gave (2.13, mean of the tokens), to 1e-4; near texts are near."""
    pytest.importorskip("torch", reason="wants the export extra")
    from engine.registry import Registry
    from export.build import build
    from export.checkpoint import default_checkpoint

    items = [Item("a", "A cave with a lamp"), Item("b", "Exploring caverns by lantern light"), Item("c", "Quarterly tax return")]
    registry = Registry(str(tmp_path / "registry"))
    opened = Generation.open(registry.fetch(build(default_checkpoint(), items, registry, tried=()).manifest.id))
    rows = opened.encoder(providers=[CPU]).embed([i.title for i in items])
    golden = [0.00631, 0.05679, -0.00773, -0.01023, -0.00837, -0.01925, 0.01589, 0.00423]
    np.testing.assert_allclose(rows[0][:8], golden, atol=1e-4)
    assert rows[0] @ rows[1] > 0.4 > rows[0] @ rows[2]
