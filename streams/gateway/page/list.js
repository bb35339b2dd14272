// The list on the page: items with their reasons as bars, moved where they moved. It sends nothing: `act` is called with what was chosen.

import { AGAINST, SHARED, SHORT, in_words, kind_class, legend_kind, make } from "./words.js";

const MOVE_MS = 360, LEAST = 0.004; // the least part of the longest bar that is drawn, or told
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const place = document.getElementById("items");

// Shows a list. `before`: the one it replaces, of the same user, or null. `title(id)`: an item's title. `about(id)`: its brief or undefined.
export function show_list(list, before, title, about, act) {
  const was = new Map((before?.items ?? []).map((one) => [one.item_id, one.rank]));
  const old = new Map([...place.children].map((row) => [row.dataset.item, row]));
  const tops = new Map([...old].map(([id, row]) => [id, row.getBoundingClientRect().top]));
  const focused = place.contains(document.activeElement) ? [...place.children].findIndex((row) => row.contains(document.activeElement)) : -1;
  const span = Math.max(...list.items.map((one) => sum(one.reasons)), 1e-9);
  const rows = list.items.map((one) => row_of(one, before && was, span, title, about, act));
  place.replaceChildren(...rows);
  if (focused >= 0) rows[Math.min(focused, rows.length - 1)]?.querySelector("button").focus({ preventScroll: true });
  if (before && !calm.matches) moved(rows, tops);
  const kinds = new Set(list.items.flatMap((one) => one.reasons.map((reason) => legend_kind(reason.kind))));
  const less = list.items.some((one) => sum(against_of(one)) / span >= LEAST);
  document.getElementById("legend").replaceChildren(
    ...Object.keys(SHORT).filter((kind) => kinds.has(kind)).map((kind) => make("span", {}, make("i", { class: kind_class(kind) }), SHORT[kind])),
    ...(less ? [make("span", {}, make("i", { class: "k-less" }), "counts against: the score is the bar less this")] : []),
  );
}

function row_of(one, was, span, title, about, act) {
  const name = title(one.item_id), brief = about(one.item_id), said = in_words(one.reasons, title);
  const before = was?.get(one.item_id), step = before === undefined ? null : before - one.rank;
  const marker = !was || step === 0 ? "" : step === null ? make("span", { class: "moved new" }, "just in")
    : make("span", { class: `moved ${step > 0 ? "up" : "down"}`, title: `was ${before + 1}` }, `${step > 0 ? "▲" : "▼"} ${Math.abs(step)}`);
  const why = make("span", { class: "why" });
  said.forEach(([text, emphasised], at) => why.append(at ? " · " : "", text, emphasised ? make("em", {}, emphasised) : ""));
  if (!said.length) why.append("nothing in particular");
  const against = against_of(one).filter(({ kind }) => kind !== SHARED);
  if (sum(against) / span >= LEAST) why.append(" · ", make("span", { class: "against" }, `less ${sum(against).toFixed(2)} for ${kinds_of(against).join(" and ")}`));
  const choose = (type) => () => act(type, one.item_id, one.rank);
  const button = make("button", { class: "item", type: "button", onclick: choose("click") },
    make("span", { class: "rank" }, String(one.rank + 1)),
    make("span", { class: "name" }, name, brief?.creator ? make("span", { class: "by" }, `  ${brief.creator}`) : ""),
    make("span", { class: "score" }, marker, make("b", { title: "score" }, one.score.toFixed(2))),
    bar_of(one.reasons, span), why);
  const acts = make("div", { class: "acts" }, ...[["like", "Like"], ["purchase", "Buy"], ["dislike", "Not for me"]].map(([type, label]) =>
    make("button", { type: "button", "aria-label": `${label}: ${name}`, onclick: choose(type) }, label)));
  const row = make("li", { "data-item": one.item_id, class: was && step === null ? "fresh" : "" }, button, acts);
  if (was && step === null) setTimeout(() => row.classList.remove("fresh"), 2600);
  return row;
}

const against_of = ({ reasons }) => reasons.filter(({ weight }) => weight < 0);
const sum = (reasons) => reasons.reduce((total, { weight }) => total + Math.abs(weight), 0);
const kinds_of = (reasons) => [...new Set(reasons.map(({ kind }) => AGAINST[kind] ?? kind.replaceAll("_", " ")))];

// What counts for an item, the most first; then, apart, all that counts against it.
function bar_of(reasons, span) {
  const sums = new Map(), against = against_of({ reasons });
  for (const { kind, weight } of reasons) if (weight >= 0) sums.set(kind, (sums.get(kind) ?? 0) + weight);
  const parts = [...sums].sort((a, b) => b[1] - a[1]), less = sum(against);
  const told = parts.map(([kind, weight]) => `${kind.replaceAll("_", " ")} ${weight.toFixed(2)}`).join(" + ");
  const label = less ? `${told || "0"} − ${less.toFixed(2)} (${against.map(({ kind }) => kind.replaceAll("_", " ")).join(", ")})` : told;
  const bar = make("span", { class: "bar", role: "img", "aria-label": label, title: label });
  for (const [name, weight] of [...parts.map(([kind, weight]) => [kind_class(kind), weight]), ["k-less", less]]) {
    if (weight / span < LEAST) continue;
    if (name === "k-less") bar.append(make("b", {}, "−"));
    const part = make("i", { class: name });
    part.style.width = `${(100 * weight) / span}%`;
    bar.append(part);
  }
  return bar;
}

function moved(rows, tops) {
  for (const row of rows) {
    const from = tops.get(row.dataset.item), by = from === undefined ? 0 : from - row.getBoundingClientRect().top;
    const frames = from === undefined ? [{ opacity: 0 }, { opacity: 1 }] : [{ transform: `translateY(${by}px)` }, { transform: "none" }];
    if (by || from === undefined) row.animate(frames, { duration: MOVE_MS, easing: "cubic-bezier(.2,.7,.2,1)" });
  }
}
