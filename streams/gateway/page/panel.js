// The panel of what is live, from /v1/status. Only shows.

import { counted, make, ms, number, rate, when } from "./words.js";

const at = (id) => document.getElementById(id);

export function show_status(status) {
  at("events-rate").textContent = rate(status.events.per_s);
  at("lists-rate").textContent = rate(status.lists.per_s);
  spark(at("events-line"), status.events.series);
  spark(at("lists-line"), status.lists.series);
  at("events-total").textContent = `${number(status.events.records)} on the topic`;
  at("lists-total").textContent = `${counted(status.lists.held, "standing list")} held`;
  at("panel-at").textContent = new Date(status.at).toLocaleTimeString("en", { hour12: false });
  fresh(status.freshness);
  at("lag").replaceChildren(...status.lag.map(({ topic, records }) => make("tr", {}, make("td", {}, topic), make("td", {}, number(records)))));
  generation(status.generation, status.at);
  letters(status.dead_letters, status.at);
}

function spark(svg, series) {
  const top = Math.max(...series, 1), step = 240 / (series.length - 1);
  const points = series.map((value, index) => `${(index * step).toFixed(1)},${(42 - (38 * value) / top).toFixed(1)}`);
  const [area, edge] = svg.children;
  area.setAttribute("d", `M0,44L${points.join("L")}L240,44Z`);
  edge.setAttribute("d", `M${points.join("L")}`);
}

function fresh({ lists, p50_ms: p50, p99_ms: p99, buckets }) {
  at("fresh-p50").textContent = ms(p50);
  at("fresh-p99").textContent = ms(p99);
  const most = Math.max(...buckets.map((bucket) => bucket.lists), 1);
  at("fresh").replaceChildren(...buckets.map((bucket, index) => {
    const name = bucket.le_ms === null ? "more" : bucket.le_ms < 1000 ? `${bucket.le_ms}` : `${bucket.le_ms / 1000} s`;
    const bar = make("i", {});
    bar.style.height = `${(100 * bucket.lists) / most}%`;
    return make("div", { title: `${index ? "up to " : "at most "}${name}: ${counted(bucket.lists, "list")}` }, bar, make("span", {}, name));
  }));
  at("fresh-foot").textContent = lists ? `${counted(lists, "list")} of the last minute, by milliseconds` : "no list in the last minute";
}

function facts(place, rows) {
  place.replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

function flat(value, path = "") {
  if (value === null || typeof value !== "object") {
    const told = typeof value === "number" && !Number.isInteger(value) ? String(+value.toPrecision(4)) : String(value);
    return [[path, told]];
  }
  return Object.entries(value).flatMap(([name, part]) => flat(part, path ? `${path} ${name}` : name)).map(([n, v]) => [n.replaceAll("_", " "), v]);
}

function generation({ active, report, newest }, now) {
  at("gen-id").textContent = active?.id ?? "none";
  at("gen-verdict").textContent = report?.verdict ?? (active ? "" : "lists are made without text");
  const rows = [];
  if (report) {
    const variant = report.variants?.[report.serving];
    rows.push(["serves", [report.serving, variant?.texts_per_s && `${number(variant.texts_per_s)} texts/s on a thread`].filter(Boolean).join(", ")]);
    if (variant?.compared) rows.push(["keeps of fp32's top 10", `${number(variant.overlap * 100, 1)} % on ${number(variant.compared)} texts`]);
    rows.push(["vectors", `${number(report.items)} items, ${report.dims} dimensions`], ["made", when(report.created_at, now)]);
    if (report.parent) rows.push(["parent", report.parent]);
  }
  if (active?.reason) rows.push(["why", `${active.reason}${active.by ? ` (${active.by})` : ""}`]);
  const others = newest.filter((one) => one.id !== active?.id).map((one) => one.id);
  if (others.length) rows.push(["also there", others.join(", ")]);
  facts(at("gen"), rows);
  const more = report ? [...flat(report.metrics), ...flat(report.variants)] : [];
  at("gen-more").hidden = !more.length;
  facts(at("gen-report"), more);
}

function letters({ records, by_reason: reasons, last }, now) {
  at("dead-count").textContent = number(records);
  at("dead-word").textContent = records === 1 ? "dead letter" : "dead letters";
  at("dead-reasons").replaceChildren(...Object.entries(reasons).map(([reason, count]) =>
    make("li", {}, reason.replaceAll("_", " "), make("b", {}, number(count)))));
  at("dead").replaceChildren(...last.map(({ source, message, at: time }) => make("li", {}, message,
    make("span", {}, `  ${source.topic} ${source.partition}/${source.offset}, ${when(time, now)}`))));
}
