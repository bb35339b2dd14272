// Reasons in words, and small helpers for text and elements. Knows nothing of the gateway.

// Per kind: in general, and naming an item of the user's history. The kinds are those of engine/reasons.py.
export const WORDS = {
  often_together: ["often chosen together with others of yours", "often chosen together with {}"],
  similar_text: ["reads like others of yours", "reads like {}"],
  history: ["fits what you chose before"],
  popular: ["popular"],
  new: ["new"],
  query: ["fits the search"],
  rule: ["moved up by a rule of this shop"],
  diversity: ["unlike the others"],
  shown: ["not shown too often"],
  unknown_item: ["not known yet"],
};
// For what a score is less, where a reason counts against an item.
export const AGAINST = {
  often_together: "what it is chosen with",
  similar_text: "how it reads",
  history: "what you chose before",
  popular: "its popularity",
  new: "its age",
  query: "the search",
  rule: "a rule of this shop",
  diversity: "how like it is to others above it",
  shown: "how often it was shown and not chosen",
  unknown_item: "being unknown",
};
// What all items of a list have alike: drawn, and not told of one.
export const SHARED = "bias";
export const SHORT = {
  often_together: "chosen together", similar_text: "text", history: "your history", popular: "popularity", new: "newness", query: "search",
};
const SAME_COLOUR = { [SHARED]: "popular", unknown_item: "popular", query: "similar_text" };

export const kind_class = (kind) => (kind in WORDS && kind !== "unknown_item" ? `k-${kind}` : "k-other");
export const legend_kind = (kind) => SAME_COLOUR[kind] ?? (kind in SHORT ? kind : "popular");

// The strongest reasons as [text, items] per kind: ["reads like", "“Anchorhead” and “Curses”"].
export function in_words(reasons, title, most = 3) {
  const told = new Map();
  for (const { kind, item_id: item, weight } of reasons) {
    if (weight <= 0 || kind === SHARED || (told.size >= most && !told.has(kind))) continue;
    const names = told.get(kind) ?? [];
    if (item && WORDS[kind]?.[1] && names.length < 2) names.push(`“${title(item)}”`);
    told.set(kind, names);
  }
  return [...told].map(([kind, names]) => {
    const [general, naming] = WORDS[kind] ?? [kind.replaceAll("_", " ")];
    return names.length ? [naming.replace("{}", ""), names.join(" and ")] : [general, ""];
  });
}

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
export const counted = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
export const rate = (value) => number(value, value > 0 && value < 10 ? 1 : 0);
export const ms = (value) => (value === null ? "–" : number(value, value < 10 ? 1 : 0));

export function when(at, now) {
  const age = (now - at) / 1000, date = new Date(at);
  if (age >= -60 && age < 60) return "just now"; // a minute ahead: clocks differ
  if (age >= 0 && age < 3600) return `${Math.floor(age / 60)} min ago`;
  if (age >= 0 && age < 86400) return date.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hour12: false });
  return date.toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}
