// The page: whose list is shown, what a choice sends, what the stream brings. How things look is in the other files.

import { get, post, stream } from "./client.js";
import { show_list } from "./list.js";
import { show_status } from "./panel.js";
import { counted, make, ms, number, when } from "./words.js";

const STATUS_MS = 2000, TYPE_MS = 140, MEANING_MS = 320, DAY_MS = 86_400_000;
const at = (id) => document.getElementById(id);
const briefs = new Map(); // item id -> brief
const title = (id) => briefs.get(id)?.title ?? id;

let user = null, shown = null, watching = null, history_rows = [];
let arrived = []; // lists with the time they came, to be matched with what was sent
let waiting = null; // {began, place, told}: a choice whose list has not come yet
let answering = true; // whether Kafka did, when the status was read last
let clock_read = Promise.resolve();
let clock = { at: Date.now(), stream_time: 0, read: performance.now() };

// Now, as events have it. Where a recorded history is replayed, its clock goes on: by ours, all of it would be years old.
function now() {
  const elapsed = performance.now() - clock.read;
  const recorded = clock.stream_time && clock.at - clock.stream_time > DAY_MS;
  return Math.round((recorded ? clock.stream_time : clock.at) + elapsed);
}

async function learn(ids) {
  const unknown = [...new Set(ids)].filter((id) => id && !briefs.has(id));
  for (let first = 0; first < unknown.length; first += 100) {
    const query = unknown.slice(first, first + 100).map((id) => `id=${encodeURIComponent(id)}`).join("&");
    for (const brief of (await get(`/v1/items?${query}`)).items) briefs.set(brief.item_id, brief);
  }
}

const named = (list) => list.items.flatMap((one) => [one.item_id, ...one.reasons.map((reason) => reason.item_id)]);

async function show(list, before) {
  shown = list;
  await learn(named(list));
  if (shown !== list) return; // a newer one came meanwhile
  show_list(list, before, title, (id) => briefs.get(id), act);
  const trigger = {
    event: "after an event",
    request: "made on request",
    item_removed: "made again: an item was removed",
    item_unavailable: "made again: an item is not available",
    rule: "made again: a rule keeps an item out",
    renewal: "made again: more is known",
  }[list.trigger.kind] ?? `after a change (${list.trigger.kind})`;
  at("list-title").textContent = `For ${user}`;
  at("list-sub").replaceChildren(`${trigger}, generation ${list.generation || "none"}`, make("span", {}, `, list ${list.list_id.slice(0, 8)}`));
  at("list-empty").hidden = list.items.length > 0;
  at("list-empty").textContent = list.note ?? "";
}

async function choose(name) {
  watching?.abort();
  watching = new AbortController();
  const mine = watching;
  user = name;
  shown = waiting = null;
  arrived = [];
  at("user").value = name;
  at("took").hidden = true;
  at("list-title").textContent = `For ${name}`;
  at("list-sub").textContent = "asking";
  history.replaceState(null, "", `?user=${encodeURIComponent(name)}`);
  stream(name, mine.signal, (kind, data) => came(mine, kind, data), pulse);
  past();
  try {
    const list = await get(`/v1/users/${encodeURIComponent(name)}/lists/home`);
    if (mine === watching && !shown) await show(list, null);
  } catch (error) {
    said(error.message, true);
  }
}

function came(mine, kind, list) {
  if (mine !== watching || kind !== "list" || list.surface !== "home" || list.list_id === shown?.list_id) return;
  arrived = [...arrived.slice(-19), { list, at: performance.now() }];
  const before = shown;
  settle();
  show(list, before);
}

const covers = (list, place) => list.applied.events?.[0] === place.partition && list.applied.events[1] >= place.offset;

// Once a choice's place is known and a list that covers it has come, say how long it took; whichever is later calls.
function settle() {
  if (!waiting?.place) return;
  const found = arrived.find(({ list }) => covers(list, waiting.place));
  if (!found) return;
  const took = found.at - waiting.began;
  at("took-ms").textContent = `${ms(took)} ms`;
  at("took").hidden = false;
  at("took").dataset.ms = took;
  said(`A new list after ${ms(took)} milliseconds.`);
  waiting = null;
  past();
}

async function act(type, item, position = null, list_id = shown?.list_id) {
  const mine = (waiting = { began: performance.now(), place: null });
  await clock_read; // a choice made before the first status would move a recorded stream to our own time
  const event = { event_id: `page-${crypto.randomUUID?.() ?? Math.random().toString(36).slice(2)}`, type, user_id: user, item_id: item, timestamp: now() };
  if (list_id && position !== null) Object.assign(event, { list_id, position });
  history_rows = [{ ...event, title: title(item) }, ...history_rows];
  show_history();
  try {
    const { accepted } = await post("/v1/events", event);
    mine.place = accepted[0];
    settle();
  } catch (error) {
    if (waiting === mine) waiting = null;
    said(error.message, true);
  }
}

function said(text, wrong = false) {
  at("said").textContent = text;
  if (wrong) {
    at("list-empty").textContent = text;
    at("list-empty").hidden = !text;
  }
}

function pulse(on) {
  at("pulse").className = `pulse ${on ? "on" : "off-line"}`;
  at("pulse-text").textContent = on ? "live" : "connecting again";
}

async function past() {
  const mine = user;
  const { events } = await get(`/v1/users/${encodeURIComponent(mine)}/history`);
  if (mine !== user) return;
  const there = new Set(events.map((event) => event.event_id));
  const own = history_rows.filter((event) => event.user_id === mine && !there.has(event.event_id) && event.timestamp > now() - 60_000);
  history_rows = [...own, ...events.map((event) => ({ ...event, user_id: mine }))];
  show_history();
}

function show_history() {
  const told = now(), rows = history_rows.filter((event) => event.user_id === user);
  at("history").replaceChildren(...rows.map((event) => make("li", { class: event.event_id.startsWith("page-") ? "mine" : "" },
    make("span", { class: "type" }, event.type),
    make("span", { class: "what", title: event.item_id ?? "" }, event.title ?? event.query ?? event.item_id ?? ""),
    make("span", { class: "when" }, when(event.timestamp, told)))));
  at("history-empty").hidden = rows.length > 0;
  at("history-count").textContent = rows.length ? `last ${number(rows.length)}` : "";
}

let typing = 0, asked = 0;
const mode = () => at("search").elements.mode.value;

async function search() {
  const query = at("query").value.trim(), mine = ++asked;
  if (!query) return found([], "");
  try {
    if (mode() === "words") {
      const { items } = await get(`/v1/items?limit=12&query=${encodeURIComponent(query)}`);
      items.forEach((brief) => briefs.set(brief.item_id, brief));
      if (mine === asked) found(items.map((brief) => ({ id: brief.item_id })), items.length ? "" : "No item has all these words.");
    } else {
      const list = await post("/v1/lists", { user_id: user, query, k: 12 });
      await learn(list.items.map((one) => one.item_id));
      if (mine === asked) found(list.items.map((one) => ({ id: one.item_id, position: one.rank, list_id: list.list_id })), list.note ?? "");
    }
  } catch (error) {
    if (mine === asked) found([], error.message);
  }
}

function found(rows, note) {
  at("found").replaceChildren(...rows.map(({ id, position = null, list_id = null }) => {
    const brief = briefs.get(id);
    return make("li", {}, make("button", { type: "button", onclick: () => act("click", id, position, list_id) },
      make("span", { class: "name" }, title(id)), make("span", { class: "by" }, `  ${brief?.creator ?? ""}`)));
  }));
  at("found-note").hidden = !note;
  at("found-note").textContent = note;
}

async function status() {
  if (!document.hidden) {
    try {
      const told = await get("/v1/status");
      clock = { at: told.at, stream_time: told.stream_time, read: performance.now() };
      show_status(told);
      const recorded = told.stream_time && told.at - told.stream_time > DAY_MS ? `, on a recorded clock: ${when(told.stream_time, told.at)}` : "";
      at("footer").textContent = `Headwater ${told.version}, ${counted(told.catalogue.items, "item")}${recorded}`;
      if (told.kafka.ok !== answering) said(told.kafka.ok ? "" : `Kafka does not answer: ${told.kafka.error}`, true);
      answering = told.kafka.ok;
    } catch (error) {
      console.warn(error);
    }
  }
  setTimeout(status, STATUS_MS);
}

function move(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const place = step && event.target.closest(".items, .found, #search");
  if (!place || event.target.type === "radio") return;
  const rows = [...(place.id === "search" ? at("found") : place).querySelectorAll("li > button")];
  const next = place.id === "search" ? rows[0] : rows[rows.indexOf(event.target) + step];
  if (next) next.focus();
  else if (step < 0 && place.id === "found") at("query").focus();
  event.preventDefault();
}

document.addEventListener("keydown", (event) => {
  const writing = event.target.matches("input, textarea");
  if (event.key === "/" && !writing && !event.metaKey && !event.ctrlKey) {
    event.preventDefault();
    at("query").focus();
  } else if (event.key === "Escape" && event.target === at("query")) {
    at("query").value = "";
    search();
  } else move(event);
});
at("who").addEventListener("submit", (event) => {
  event.preventDefault();
  choose(at("user").value.trim());
});
at("invent").addEventListener("click", () => choose(`guest-${Math.random().toString(36).slice(2, 8)}`));
at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
at("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(search, mode() === "words" ? TYPE_MS : MEANING_MS);
});

// A browser may keep a page that was left, to show it again at once: its stream would hold one of the few connections that it has for us.
addEventListener("pagehide", () => watching?.abort());
addEventListener("pageshow", (event) => event.persisted && user && choose(user));

async function start() {
  const { users } = await get("/v1/users?limit=30");
  at("users").replaceChildren(...users.map(({ user_id, events }) => make("option", { value: user_id }, counted(events, "event"))));
  const wanted = new URLSearchParams(location.search).get("user");
  const fitting = users.find(({ events }) => events >= 4 && events <= 40) ?? users[0];
  clock_read = status();
  await choose(wanted ?? fitting?.user_id ?? "guest-1");
}

start().catch((error) => said(error.message, true));
