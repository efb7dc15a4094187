// Draws /v1/status. What is unknown is drawn as unknown, with its reason; ages grow between refreshes by this page's own clock.
"use strict";

const REFRESH_MS = 2000;
// Without an answer for this long the page says loudly that it shows the past.
const STALE_MS = 10000;
const TIMEOUT_MS = 5000;

// State -> how loud it is, and its shape. The shape says the same as the colour.
const LINK = { ok: ["ok", "●"], lossy: ["warn", "▲"], grey: ["warn", "◐"], down: ["loud", "✕"], unknown: ["unknown", "?"] };
const REGION = {
  HEALTHY: ["ok", "●"], DEGRADED: ["warn", "▲"], SUSPECT: ["bad", "◆"], DOWN: ["loud", "✕"], RECOVERING: ["warn", "↗"], UNKNOWN: ["unknown", "?"],
};
const NODE = {
  ok: ["ok", "●"], "standing-by": ["ok", "○"], unreachable: ["loud", "✕"], hanging: ["bad", "◆"], "read-only": ["bad", "◆"],
  refused: ["bad", "◆"], tls: ["bad", "◆"], "missing-grant": ["warn", "▲"], "missing-table": ["warn", "▲"], pooled: ["warn", "▲"],
  unknown: ["unknown", "?"],
};
const REPLICATION = {
  ok: ["ok", "●"], lagging: ["warn", "▲"], "catching-up": ["warn", "↗"], "delayed-on-purpose": ["ok", "‖"], paused: ["warn", "‖"],
  conflict: ["warn", "▲"], "not-published": ["warn", "▲"], stalled: ["bad", "◆"], silent: ["bad", "◆"], disconnected: ["bad", "✕"],
  "apply-error": ["bad", "◆"], "writer-down": ["bad", "◆"], "slot-lost": ["loud", "✕"], diverged: ["loud", "✕"], unknown: ["unknown", "?"],
};
const WRITES = { acknowledged: ["ok", "●", "work"], "in-doubt": ["loud", "◆", "hang"], failed: ["bad", "✕", "fail"] };
const SLOT = { reserved: ["ok", "●"], extended: ["ok", "●"], unreserved: ["bad", "◆"], lost: ["loud", "✕"], unknown: ["unknown", "?"] };
// A slot that nobody reads from and that lasts no longer than this is bad news.
const SOON_S = 3600;
const VOTE = { good: ["ok", "●"], bad: ["bad", "✕"], void: ["unknown", "–"] };
const LOUDNESS = ["ok", "unknown", "warn", "bad", "loud"];
// Staleness grows while replication does not move.
const MOVING = new Set(["ok", "lagging", "catching-up", "delayed-on-purpose"]);

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let status = null;
let receivedAt = null;
let failure = null;

// ---- building blocks ----

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const look = (table, state) => table[state] || ["unknown", "?"];
const mark = (table, state, word = state) => {
  const [level, shape] = look(table, state);
  return el("span", { class: `mark ${level}` }, el("i", { "aria-hidden": "true" }, shape), word);
};
const worst = (levels) => levels.reduce((a, b) => (LOUDNESS.indexOf(b) > LOUDNESS.indexOf(a) ? b : a), "ok");

// ---- numbers ----

const isKnown = (known) => known && known.is === "known";
const why = (known) => (known && known.is === "unknown" ? known.why : null);

// Three significant digits, in the unit that people use.
function quantity(seconds) {
  const size = Math.abs(seconds);
  if (size < 0.001) return [digits(seconds * 1e6), "µs"];
  if (size < 1) return [digits(seconds * 1e3), "ms"];
  if (size < 120) return [digits(seconds), "s"];
  return [span(seconds), ""];
}
// A number that somebody has chosen: no more digits than it needs.
const plain = (seconds) => { const [value, unit] = quantity(seconds); return `${unit ? Number(value) : value} ${unit}`.trim(); };
function digits(value) {
  const size = Math.abs(value);
  return value.toFixed(size < 9.995 ? 2 : size < 99.95 ? 1 : 0).replace("-", "\u2212");
}
const words = (seconds) => quantity(seconds).join(" ").trim();
function number(seconds, cls) {
  const [value, unit] = quantity(seconds);
  return el("span", { class: cls }, value, unit ? el("span", { class: "unit" }, unit) : null);
}
function span(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}
const coarse = (seconds) => (seconds < 60 || seconds >= 3600 ? span(seconds) : `${Math.floor(seconds / 60)} min`);
function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let rest = value;
  while (rest >= 1024 && unit < units.length - 1) { rest /= 1024; unit += 1; }
  return `${unit === 0 ? rest : digits(rest)} ${units[unit]}`;
}

// An age that grows by itself until the next refresh. What is fresh is told in steps, or every page would flicker with digits.
function age(known) {
  const seconds = known.is === "known" ? known.value : known.is === "stale" ? known.age_s : null;
  if (seconds === null) return el("span", { class: "age late", title: known.why }, "never reported");
  return el("span", { class: known.is === "known" ? "age" : "age late", "data-age": seconds,
    "data-steps": known.is === "known", title: "age of the newest evidence" }, ago(seconds, known.is === "known"));
}
function ago(seconds, inSteps) {
  if (!inSteps) return `${span(seconds)} ago`;
  return seconds < 5 ? "just now" : `${span(Math.floor(seconds / 5) * 5)} ago`;
}
const since = (seconds) => (seconds < 1 ? "just now" : `for ${coarse(seconds)}`);

// ---- parts ----

function drawSummary() {
  const verdicts = status.regions.flatMap((region) => region.verdicts.map((verdict) => ({ region, verdict })));
  const level = worst(verdicts.map(({ verdict }) => verdictLevel(verdict)));
  const loudest = verdicts.filter(({ verdict }) => verdictLevel(verdict) === level);
  const items = [item(`${status.regions_reporting} of ${status.regions.length}`, "regions reporting", status.regions_reporting < status.regions.length)];
  if (level === "ok") {
    items.push(el("li", {}, mark(REGION, "HEALTHY", "all regions healthy")));
  } else {
    const names = [...new Set(loudest.map(({ region }) => region.region))];
    const shown = names.length > 3 ? `${names.length} regions` : names.join(", ");
    const { state, stale } = loudest[0].verdict;
    items.push(el("li", {}, stale ? mark(REGION, "UNKNOWN", `${shown} unknown, last ${state}`) : mark(REGION, state, `${shown} ${state}`)));
  }
  items.push(...tally(LINK, status.links, "link"), ...tally(REPLICATION, status.replications, "replication"));
  items.push(...status.nodes.filter((node) => writesLevel(node) !== "ok").map((node) => el("li", {}, mark(WRITES, node.ledger.value.outcome, `writes ${WRITES[node.ledger.value.outcome][2]} at ${node.node}`))));
  const slots = status.nodes.flatMap((node) => (isKnown(node.slots) ? node.slots.value.slots : [])).filter((slot) => LOUDNESS.indexOf(slotLevel(slot)) >= LOUDNESS.indexOf("bad"));
  if (slots.length) items.push(el("li", {}, el("span", { class: "mark bad" }, `${slots.length} slot${slots.length === 1 ? "" : "s"} lost or soon to be`)));
  const liars = status.links.filter((link) => link.clock_contradiction).map((link) => [link.region, link.peer].sort().join(" or "));
  for (const pair of new Set(liars)) items.push(el("li", {}, el("span", { class: "mark warn" }, `a wall clock of ${pair} is wrong`)));
  for (const cluster of status.clusters.filter((one) => one.writers.length > one.writers_max)) {
    items.push(el("li", {}, el("span", { class: "mark loud" }, `${cluster.cluster}: ${cluster.writers.length} writers`)));
  }
  $("fleet").textContent = status.fleet;
  document.title = `${level === "ok" ? "" : `${look(REGION, loudest[0].verdict.state)[1]} `}${status.fleet} · lagmesh`;
  $("summary").replaceChildren(...items);
  $("version").textContent = `lagmesh-collector ${status.version}`;
}
// A verdict that only stands, for want of evidence, is never shown as well.
const verdictLevel = ({ state, stale }) => {
  const [level] = look(REGION, state);
  return stale && level === "ok" ? "unknown" : level;
};
const item = (value, label, odd) => el("li", { class: odd ? "odd" : null }, el("b", {}, value), label);

// "2 links down", and apart from it how many are unknown: unknown is not down, and not fine.
function tally(table, all, noun) {
  const counts = new Map();
  for (const { state } of all) if (look(table, state)[0] !== "ok") counts.set(state, (counts.get(state) || 0) + 1);
  const plural = (count) => `${count} ${noun}${count === 1 ? "" : "s"}`;
  const order = [...counts].sort(([a], [b]) => LOUDNESS.indexOf(look(table, b)[0]) - LOUDNESS.indexOf(look(table, a)[0]));
  return order.map(([state, count]) => el("li", {}, mark(table, state, `${plural(count)} ${state}`)));
}

function drawRegions() {
  const open = new Set([...document.querySelectorAll("#regions details[open]")].map((one) => one.id));
  $("regions").replaceChildren(...status.regions.map((region) => {
    const level = worst(region.verdicts.map(verdictLevel));
    return el("article", { class: `card ${level}`, "data-region": region.region },
      el("header", {}, el("h3", {}, region.region), age(region.evidence_age_s)),
      region.verdicts.flatMap((verdict) => axis(region, verdict, open)));
  }));
}

function axis(region, verdict, open) {
  const id = `axis-${region.region}-${verdict.axis}`;
  const level = verdictLevel(verdict);
  const votes = verdict.votes.map((cast) => el("li", { "data-vantage": cast.vantage, "data-vote": cast.vote },
    mark(VOTE, cast.vote, cast.vantage), el("span", {}, `${cast.vote}: ${cast.why}`)));
  const because = el("p", { class: "why" }, verdict.why);
  // What is not well explains itself without a click.
  return [
    el("details", { class: "axis", id, open: open.has(id), "data-region": region.region, "data-axis": verdict.axis, "data-state": verdict.state },
      el("summary", { title: verdict.why }, el("span", { class: "axis-name" }, verdict.axis),
        verdict.stale ? mark(REGION, level === "unknown" ? "UNKNOWN" : verdict.state, `last ${verdict.state}`) : mark(REGION, verdict.state),
        verdict.stale ? null : el("span", { class: "for", "data-for": verdict.for_s }, since(verdict.for_s))),
      level === "ok" ? because : null,
      votes.length ? el("ul", { class: "votes", "aria-label": "Votes" }, votes) : null),
    level === "ok" ? null : because,
  ];
}

function drawMatrix() {
  const names = status.regions.map((region) => region.region);
  const cells = new Map(status.links.map((link) => [`${link.region} ${link.peer}`, link]));
  const head = el("thead", {}, el("tr", {}, el("th", { class: "corner", scope: "col" }, "from ↓ to →"),
    names.map((name) => column(el("th", { scope: "col" }, name), names.length))));
  const body = el("tbody", {}, names.map((from) => el("tr", {}, el("th", { scope: "row" }, from), names.map((to) => {
    if (from === to) return el("td", { class: "self" }, from);
    const link = cells.get(`${from} ${to}`);
    if (link) return cell(link);
    // Not meant to probe each other: neither unknown nor bad.
    if ((status.plan ?? "full") !== "full") return el("td", { class: "unplanned", title: `${from} → ${to}: not planned, the mesh plan is ${status.plan}`, "data-region": from, "data-peer": to, "data-state": "not-planned" }, "—");
    return el("td", { class: "hatched unknown", "data-region": from, "data-peer": to, "data-state": "unknown" }, "unknown");
  }))));
  $("matrix").replaceChildren(head, body);
}

function column(head, count) {
  head.style.width = `${Math.floor(92 / count)}%`;
  return head;
}

function cell(link) {
  const [level] = look(LINK, link.state);
  const stamp = link.kinds.find((one) => one.kind === "stamp");
  const rtt = stamp ? stamp.rtt : { is: "unknown", why: "not probed" };
  // What was measured within the last minute says nothing about a link of which nothing is known now.
  const current = isKnown(rtt) && link.state !== "unknown";
  const was = link.state === "unknown" || rtt.is === "stale" ? rtt.value : null;
  const classes = [level === "ok" ? "" : level, !current && level !== "loud" ? "hatched" : ""].join(" ").trim();
  const title = [`${link.region} → ${link.peer}: ${link.state}`, link.why, link.disagreement && link.disagreement.why, link.clock_contradiction, ...link.kinds.map(kindWords), clockWords(link)].filter(Boolean).join("\n");
  return el("td", { class: classes || null, title, "data-region": link.region, "data-peer": link.peer, "data-state": link.state,
    "data-rtt-s": current ? rtt.value.p50_s : null },
    current ? number(rtt.value.p50_s, "big") : el("div", { class: "big none" }, link.state === "unknown" ? mark(LINK, "unknown") : "no answer"),
    el("div", { class: "sub" }, current ? el("span", {}, "p99 ", words(rtt.value.p99_s)) : null,
      current && link.floor_s ? el("span", { title: `light in fibre needs ${words(link.floor_s)}` }, `${(rtt.value.min_s / link.floor_s).toFixed(2)}× floor`) : null,
      was ? el("span", {}, "was ", words(was.p50_s)) : null),
    el("div", { class: "cellstate" }, link.state !== "unknown" ? mark(LINK, link.state, stateWords(link, stamp)) : null,
      isKnown(link.evidence_age_s) ? null : age(link.evidence_age_s)),
    link.clock_contradiction ? el("div", { class: "reason" }, el("span", { class: "mark warn" }, el("i", { "aria-hidden": "true" }, "▲"), "clock wrong")) : null,
    link.state === "unknown" ? el("div", { class: "reason" }, link.why) : !isKnown(rtt) && link.state !== "down" ? el("div", { class: "reason" }, why(rtt)) : null);
}

function stateWords(link, stamp) {
  const flows = isKnown(link.flows_alive) ? link.flows_alive.value : null;
  if (link.state === "grey" && flows !== null) return `grey: ${link.flows - flows} of ${link.flows} flows dead`;
  const lost = stamp && stamp.settled > 0 ? (stamp.settled - stamp.answered) / stamp.settled : null;
  if (lost !== null && lost > 0 && link.state !== "unknown") return `${link.state}, ${percent(lost)} lost`;
  return link.state;
}
const percent = (ratio) => `${ratio < 0.001 ? "<0.1" : (ratio * 100).toFixed(ratio < 0.1 ? 1 : 0)} %`;
const kindWords = (one) => `${one.kind}: ${isKnown(one.rtt) ? `${words(one.rtt.value.p50_s)} (p99 ${words(one.rtt.value.p99_s)})` : `unknown, ${why(one.rtt) || "stale"}`}, ${one.answered} of ${one.settled} answered${phaseWords(one.phases)}`;
const phaseWords = (phases) => (phases ? ` (${Object.entries(phases).map(([phase, took]) => `${phase} ${words(took.p50_s)}`).join(", ")})` : "");
const clockWords = (link) => (isKnown(link.clock_error_s) ? `clock offset known to ±${words(link.clock_error_s.value)}` : null);

function drawLegend() {
  const shapes = Object.entries(LINK).map(([state, [, shape]]) => el("li", {}, el("span", { class: "mark" }, el("i", { "aria-hidden": "true" }, shape), state)));
  $("legend").replaceChildren(...shapes, el("li", {}, el("span", { class: "mark" }, el("span", { class: "swatch hatched" }), "not known: never a zero")));
}

const LAG_COLUMNS = ["apply lag", "last minute", "staleness now", "to receive", "to replay", "would be lost"];

function drawLag() {
  $("lag").replaceChildren(...status.clusters.map((cluster) => {
    const rows = status.replications.filter((row) => row.cluster === cluster.cluster);
    const split = cluster.writers.length > cluster.writers_max;
    const writers = cluster.writers.length
      ? el("span", { class: split ? "mark loud" : null }, `${split ? `${cluster.writers.length} writers, ${cluster.writers_max} allowed` : "writer"}: ${cluster.writers.join(", ")}`)
      : el("span", { class: "mark unknown" }, el("i", {}, "?"), "no writer known");
    const head = el("div", { class: "cluster" }, el("b", {}, cluster.cluster), writers, el("span", {}, `promised: lag within ${plain(cluster.lag_objective_s)}`));
    const table = rows.length
      ? el("table", { class: "list" }, el("thead", {}, el("tr", {}, ["from → to", "state"].map((name) => el("th", { scope: "col" }, name)),
        LAG_COLUMNS.map((name) => el("th", { scope: "col", class: "num" }, name)),
        el("th", { scope: "col" }, "evidence"))), el("tbody", {}, rows.map((row) => lagRow(row, cluster))))
      : el("p", { class: "pad hatched none" }, "No replication is known: no node has reported yet whose beats it reads.");
    return el("div", { class: "panel scroll", tabindex: "0", role: "region", "aria-label": `Replication of ${cluster.cluster}` }, head, table);
  }));
  if (!status.clusters.length) $("lag").replaceChildren(el("p", { class: "panel pad none" }, "The fleet file names no cluster."));
}

function lagRow(row, cluster) {
  const [level] = look(REPLICATION, row.state);
  const known = isKnown(row.lag);
  const lag = known ? within(row.lag.value) : unknown(row.lag, (value) => (isWithinError(value) ? `≤ ${words(value.upper_s)}` : words(value.estimate_s)));
  const recent = isKnown(row.lag_recent)
    ? [el("div", {}, `p50 ${quantile(row.lag_recent.value.p50_s)}`), el("div", { class: "dim" }, `p99 ${quantile(row.lag_recent.value.p99_s)}`)]
    : unknown(row.lag_recent, (value) => `p50 ${quantile(value.p50_s)}`);
  const missed = known && row.lag.value.lower_s > cluster.lag_objective_s;
  const rowLevel = level === "ok" && missed ? "warn" : level;
  return el("tr", { class: rowLevel === "loud" ? "bad" : rowLevel, "data-origin": row.origin, "data-node": row.node, "data-state": row.state,
    "data-lag-s": known ? row.lag.value.estimate_s : null },
    el("td", { class: "name" }, row.origin, el("span", { class: "arrow" }, "→"), row.node),
    el("td", { class: "words" }, mark(REPLICATION, row.state), row.state === "ok" ? null : el("div", {}, row.why)),
    [[row.lag, lag], [row.lag_recent, recent], [row.staleness, staleness(row)],
      ...[row.log.received.backlog_bytes, row.log.replayed.backlog_bytes].map((one) => [one, isKnown(one) ? bytes(one.value) : unknown(one, bytes)]),
      [row.loss, isKnown(row.loss) ? atMost(row.loss.value) : unknown(row.loss, atMost)]]
      .map(([value, shown], n) => el("td", { class: `num ${isKnown(value) ? "" : "hatched"}`, "data-label": LAG_COLUMNS[n] }, el("div", {}, shown))),
    el("td", { "data-label": "evidence" }, age(row.evidence_age_s)));
}

// Estimates below zero are counted at zero; neither was measured, it is only that the clocks' error is larger.
const quantile = (seconds) => (seconds > 0 ? words(seconds) : "within error");

// What counts in the worst case stands first.
const atMost = (value) => `≤ ${words(value.upper_s)}`;

// An estimate with its error; where the error is larger only the upper end means something.
function isWithinError({ lower_s: lower, estimate_s: estimate, upper_s: upper }) {
  return upper > 0 && (upper - lower) / 2 >= Math.abs(estimate);
}
function within(value) {
  const { lower_s: lower, estimate_s: estimate, upper_s: upper } = value;
  if (isWithinError(value)) return el("span", { class: "lagnum num", title: `between ${words(lower)} and ${words(upper)}` }, "≤ ", number(upper, "num"));
  return [number(estimate, "lagnum num"), el("div", { class: "dim" }, `± ${words((upper - lower) / 2)}`)];
}

function staleness(row) {
  if (!isKnown(row.staleness)) return unknown(row.staleness, (value) => words(value.estimate_s));
  const value = row.staleness.value;
  const grows = MOVING.has(row.state) ? null : value.estimate_s;
  return [el("span", { class: "lagnum", "data-grows": grows }, words(value.estimate_s)),
    el("div", { class: "dim" }, "at most ", el("span", { "data-grows": value.upper_s }, words(value.upper_s))),
    row.basis === "claims" ? el("div", { class: "dim", title: "The writer's agent is not heard on the mesh: lag and staleness rest on what both hosts claim about their clocks." }, "by clocks' claims") : null];
}
const unknown = (known, show) => (known.is === "stale"
  ? el("span", { class: "none", title: `last known ${span(known.age_s)} ago` }, `was ${show(known.value)}`)
  : el("span", { class: "none", title: known.why }, "unknown"));

// Whether writes work as applications get them: only bad news counts here, what is unknown is told in its cell.
const writesLevel = (node) => (isKnown(node.ledger) ? look(WRITES, node.ledger.value.outcome)[0] : "ok");

function writesCell(node) {
  const ledger = node.ledger;
  // Nobody writes to a standby.
  if (ledger.is === "unknown" && isKnown(node.role) && node.role.value === "standby") return el("td", { "data-label": "writes", class: "dim", title: why(ledger) }, "—");
  const [level, , word] = WRITES[ledger.value?.outcome] || [];
  const age = ledger.value?.acknowledged_age_s;
  const worked = typeof age === "number" ? el("div", { class: "dim" }, level === "ok" ? "" : "worked ", el("span", { "data-age": age, "data-steps": level === "ok" }, ago(age, level === "ok"))) : null;
  const shown = isKnown(ledger) ? [mark(WRITES, ledger.value.outcome, word), worked, level === "ok" ? null : el("div", { class: "words" }, ledger.value.why)]
    : unknown(ledger, () => word);
  return el("td", { "data-label": "writes", class: isKnown(ledger) ? null : "hatched", "data-writes": isKnown(ledger) ? ledger.value.outcome : ledger.is,
    title: isKnown(ledger) ? `commits at level ${ledger.value.level}` : null }, el("div", {}, shown));
}

function drawNodes() {
  const loudness = (node) => LOUDNESS.indexOf(worst([look(NODE, node.state)[0], writesLevel(node)]));
  const order = [...status.nodes].sort((a, b) => loudness(b) - loudness(a));
  const head = el("thead", {}, el("tr", {}, ["node", "region", "role", "version", "timeline", "state", "writes", "evidence"].map((name) => el("th", { scope: "col" }, name))));
  const cellOf = (label, ...shown) => el("td", { "data-label": label }, el("div", {}, shown));
  const text = (known, show = (value) => value) => (isKnown(known) ? `${show(known.value)}` : unknown(known, (value) => `${show(value)}`));
  const body = el("tbody", {}, order.map((node) => {
    const level = worst([look(NODE, node.state)[0], writesLevel(node)]);
    return el("tr", { class: level === "loud" ? "bad" : level, "data-node": node.node, "data-state": node.state },
      el("td", { class: "name" }, node.node, el("div", { class: "dim" }, node.cluster)), cellOf("region", node.region), cellOf("role", text(node.role)),
      cellOf("version", text(node.version, version)), cellOf("timeline", text(node.timeline)),
      el("td", { class: "words" }, mark(NODE, node.state), node.why ? el("div", {}, node.why) : null), writesCell(node), cellOf("evidence", age(node.evidence_age_s)));
  }));
  if (order.length) $("nodes").replaceChildren(head, body);
  else $("nodes").replaceChildren(el("tbody", {}, el("tr", {}, el("td", { class: "none" }, "The fleet file names no database."))));
}
const version = (number) => (number >= 100000 ? `${Math.floor(number / 10000)}.${number % 10000}` : `${number}`);

const SLOT_COLUMNS = ["state", "read from", "keeps", "room left", "exhausted in"];

function slotLevel(slot) {
  const [level] = look(SLOT, slot.state);
  const ends = slot.exhaustion_s !== null && slot.exhaustion_s <= SOON_S && !slot.active;
  return worst([level, ends ? "bad" : slot.active || level === "unknown" ? "ok" : "warn"]);
}

function drawSlots() {
  const nodes = status.nodes.filter((node) => node.slots.is !== "unknown");
  const rows = nodes.flatMap((node) => node.slots.value.slots.map((slot) => [node, slot])).sort(([, a], [, b]) => LOUDNESS.indexOf(slotLevel(b)) - LOUDNESS.indexOf(slotLevel(a)));
  const head = el("thead", {}, el("tr", {}, ["node", "slot", ...SLOT_COLUMNS].map((name, n) => el("th", { scope: "col", class: n > 3 ? "num" : null }, name))));
  const note = (node, text) => el("tr", {}, el("td", { class: "name" }, node.node), el("td", { class: "none", colspan: 1 + SLOT_COLUMNS.length }, text));
  const notes = [
    ...status.nodes.filter((node) => node.slots.is === "unknown").map((node) => note(node, `unknown: ${node.slots.why}`)),
    ...nodes.filter((node) => node.slots.value.more > 0).map((node) => note(node, `${node.slots.value.more} more slots than are watched one by one`)),
  ];
  if (!rows.length && !notes.length) notes.push(el("tr", {}, el("td", { class: "none" }, "No database has a replication slot.")));
  $("slots").replaceChildren(...(rows.length ? [head] : []), el("tbody", {}, rows.map(([node, slot]) => slotRow(node, slot)), notes));
}

function slotRow(node, slot) {
  const known = isKnown(node.slots);
  const level = known ? slotLevel(slot) : "unknown";
  // No room means two opposite things: there is no limit, or nothing is left to limit.
  const room = slot.safe_bytes !== null ? bytes(Math.max(slot.safe_bytes, 0)) : ["lost", "unknown"].includes(slot.state) ? "—" : "no limit";
  const reader = slot.active ? "yes" : slot.inactive_s !== null ? `not for ${coarse(slot.inactive_s)}` : "no";
  const keeps = slot.retained_bytes !== null ? bytes(slot.retained_bytes) : "—";
  const shown = [known ? mark(SLOT, slot.state) : el("span", { class: "none" }, `was ${slot.state}`), reader, keeps, room, slot.exhaustion_s !== null ? span(slot.exhaustion_s) : "—"];
  const old = known ? null : `last known ${span(node.slots.age_s)} ago`;
  return el("tr", { class: level === "loud" ? "bad" : level, "data-node": node.node, "data-slot": slot.slot, "data-state": known ? slot.state : "stale", title: slot.invalidation_reason },
    el("td", { class: "name" }, node.node), el("td", {}, slot.slot),
    shown.map((one, n) => el("td", { class: `${n > 1 ? "num" : ""} ${known ? "" : "hatched"}`.trim() || null, title: old, "data-label": SLOT_COLUMNS[n] }, el("div", {}, one))));
}

// Of several hosts of a region the pair that is known best.
function drawClocks() {
  const { offsets = [], contradictions = [] } = status.clocks ?? {};
  $("s-clocks").hidden = !offsets.length;
  const best = new Map();
  for (const one of offsets) {
    const value = isKnown(one.offset_s) ? one.offset_s.value : null;
    const turned = value && { lower_s: -value.upper_s, estimate_s: -value.estimate_s, upper_s: -value.lower_s };
    for (const [from, to, offset] of [[one.region, one.peer, value], [one.peer, one.region, turned]]) {
      const held = best.get(`${from} ${to}`);
      const width = ({ lower_s: lower, upper_s: upper }) => upper - lower;
      if (!held || (offset && (!held.offset || width(offset) < width(held.offset)))) best.set(`${from} ${to}`, { one, offset });
    }
  }
  const names = status.regions.map((region) => region.region);
  const head = el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "from ↓ to →"), names.map((name) => el("th", { scope: "col", class: "num" }, name))));
  const body = el("tbody", {}, names.map((from) => el("tr", {}, el("th", { scope: "row" }, from),
    names.map((to) => (from === to ? el("td", { class: "num none" }, "·") : clockCell(from, to, best.get(`${from} ${to}`)))))));
  $("clocks").replaceChildren(head, body);
  $("contradictions").hidden = !contradictions.length;
  $("contradictions").replaceChildren(...contradictions.map((set) => el("div", { class: "mark bad" }, el("i", { "aria-hidden": "true" }, "◆"),
    `${set.join(", ")}: what these agents measured of each other's clocks cannot all be true`)));
}

function clockCell(from, to, found) {
  const label = { "data-label": to, "data-region": from, "data-peer": to };
  if (!found || !found.offset) return el("td", { ...label, class: "num hatched", title: found ? why(found.one.offset_s) : null }, el("div", {}, el("span", { class: "none" }, "unknown")));
  const { lower_s: lower, estimate_s: estimate, upper_s: upper } = found.offset;
  const title = [`between ${words(lower)} and ${words(upper)}`, found.one.is_measured ? null : "these regions do not measure each other: known through others"].filter(Boolean).join("\n");
  const shown = lower <= 0 && upper >= 0 ? `within ${words(Math.max(-lower, upper))}` : [words(estimate), el("div", { class: "dim" }, `± ${words((upper - lower) / 2)}`)];
  return el("td", { ...label, class: "num", title, "data-lower-s": lower, "data-upper-s": upper }, el("div", {}, shown, found.one.is_measured ? null : el("div", { class: "dim" }, "through others")));
}

// ---- the map: equirectangular, with arcs that bend as great circles do ----

const MAP = { width: 760, height: 330, margin: 26 };
// Coarse outlines of the land, [longitude, latitude]: for orientation only.
const LAND = [
  [-168, 66, -156, 71, -128, 70, -110, 68, -95, 69, -82, 73, -80, 64, -94, 60, -92, 57, -82, 54, -79, 51, -77, 57, -78, 62, -65, 58, -56, 53, -60, 50, -66, 49, -61, 46, -70, 43, -75, 38, -81, 31, -80, 25, -84, 30, -94, 29, -97, 25, -97, 20, -90, 21, -88, 16, -83, 14, -82, 9, -78, 8, -85, 11, -95, 16, -105, 20, -112, 29, -109, 24, -117, 33, -124, 41, -124, 48, -134, 57, -150, 60, -163, 55, -158, 59, -165, 61],
  [-55, 60, -45, 60, -38, 66, -22, 71, -18, 78, -30, 83, -58, 82, -70, 77, -56, 74, -53, 67],
  [-78, 8, -72, 12, -62, 10, -51, 4, -44, -2, -35, -6, -39, -14, -41, -22, -48, -26, -57, -37, -65, -42, -68, -52, -74, -52, -73, -38, -70, -20, -76, -14, -81, -5, -77, 3],
  [-6, 35, 10, 37, 11, 33, 20, 31, 32, 31, 36, 23, 43, 12, 51, 11, 41, -3, 40, -15, 35, -22, 33, -28, 26, -34, 18, -34, 12, -17, 13, -6, 9, 4, -5, 5, -13, 9, -17, 15, -16, 21, -9, 32],
  [-9, 37, -9, 43, -1, 44, -4, 48, 3, 51, 8, 54, 8, 57, 12, 54, 20, 55, 24, 59, 30, 60, 23, 60, 22, 66, 17, 61, 18, 57, 13, 55, 6, 58, 5, 62, 15, 69, 28, 71, 41, 67, 33, 66, 44, 66, 55, 68, 70, 72, 80, 73, 104, 77, 113, 74, 130, 71, 160, 70, 179, 67, 178, 63, 164, 60, 161, 52, 156, 58, 142, 59, 135, 54, 141, 49, 133, 43, 127, 39, 129, 35, 126, 35, 124, 39, 118, 39, 122, 37, 119, 34, 122, 30, 116, 23, 108, 21, 109, 12, 105, 9, 100, 13, 103, 2, 98, 9, 97, 16, 92, 22, 87, 21, 80, 13, 77, 8, 73, 17, 70, 22, 62, 25, 56, 27, 50, 30, 52, 24, 56, 25, 59, 22, 52, 16, 44, 13, 39, 21, 35, 28, 36, 36, 27, 37, 27, 40, 35, 42, 41, 41, 37, 46, 31, 46, 28, 41, 23, 38, 20, 40, 13, 45, 18, 40, 16, 38, 9, 44, 3, 42, -1, 37],
  [-5, 50, 1, 51, 1, 53, -2, 56, -2, 58, -6, 58, -3, 54], [-10, 52, -6, 52, -6, 55, -9, 54], [-24, 65, -15, 65, -18, 63],
  [131, 31, 136, 34, 141, 36, 141, 41, 145, 43, 142, 45, 139, 38, 133, 35], [80, 9, 82, 7, 80, 6], [109, 1, 117, 7, 119, 1, 115, -4, 110, -3],
  [95, 5, 106, -3, 105, -6, 98, 1], [105, -6, 114, -8, 108, -8], [120, 18, 122, 18, 126, 7, 122, 10], [119, -5, 121, -5, 125, 1, 120, 1],
  [131, -1, 138, -2, 147, -6, 150, -10, 143, -9, 138, -8], [44, -25, 47, -25, 50, -15, 44, -17],
  [114, -22, 122, -18, 130, -12, 136, -12, 140, -18, 142, -11, 146, -19, 153, -26, 150, -37, 141, -38, 135, -34, 124, -33, 115, -34],
  [167, -46, 174, -41, 173, -35, 178, -38, 171, -46], [-84, 22, -75, 20, -78, 22], [-74, 20, -69, 19, -72, 18],
];

function drawMap() {
  const placed = status.regions.filter((region) => region.coordinates);
  $("s-map").hidden = placed.length < 2;
  $("overview").classList.toggle("with-map", placed.length >= 2);
  if (placed.length < 2) return;
  const at = new Map(placed.map((region) => [region.region, region.coordinates]));
  const place = projection(placed.map((region) => region.coordinates));
  const picture = svg("svg", { viewBox: `0 0 ${MAP.width} ${MAP.height}`, role: "img", "aria-label": "Regions and the links between them" });
  for (const outline of LAND) {
    const points = Array.from({ length: outline.length / 2 }, (_, n) => place({ longitude: outline[2 * n], latitude: outline[2 * n + 1] }));
    picture.append(svg("path", { class: "land", d: `M${points.map((point) => point.map((x) => x.toFixed(1)).join(" ")).join("L")}Z` }));
  }
  const drawn = new Set();
  const labels = [];
  for (const link of status.links) {
    const key = [link.region, link.peer].sort().join(" ");
    if (drawn.has(key) || !at.has(link.region) || !at.has(link.peer)) continue;
    drawn.add(key);
    const back = status.links.find((other) => other.region === link.peer && other.peer === link.region);
    const both = [link, back].filter(Boolean);
    const level = worst(both.map((one) => look(LINK, one.state)[0]));
    const [from, to] = [place(at.get(link.region)), place(at.get(link.peer))];
    const bend = control(from, to, at.get(link.region), at.get(link.peer));
    const title = svg("title");
    title.textContent = both.map((one) => `${one.region} → ${one.peer}: ${one.state}`).join("\n");
    picture.append(svg("path", { class: `arc ${level}`, d: `M${from.join(" ")}Q${bend.join(" ")} ${to.join(" ")}` }, title));
    const rtt = both.map((one) => one.kinds.find((kind) => kind.kind === "stamp")).filter(Boolean).map((kind) => kind.rtt).find(isKnown);
    const middle = [0, 1].map((axis) => (from[axis] + 2 * bend[axis] + to[axis]) / 4);
    const label = svg("text", { class: "rtt", x: middle[0], y: middle[1] - 3, "text-anchor": "middle" });
    label.textContent = rtt ? words(rtt.value.p50_s) : "?";
    labels.push(label);
  }
  picture.append(...labels);
  for (const region of placed) {
    const [x, y] = place(region.coordinates);
    const level = worst(region.verdicts.map(verdictLevel));
    const left = x > MAP.width * 0.75;
    const name = svg("text", { x: left ? x - 11 : x + 11, y: y + 16, "text-anchor": left ? "end" : "start" });
    name.textContent = region.region;
    picture.append(svg("circle", { class: `dot ${level}`, cx: x, cy: y, r: 6 }), name);
  }
  $("map").replaceChildren(picture);
}

// Fits all places into the picture, with room for arcs and names; no closer than a continent.
function projection(points) {
  const range = (values, least) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return [(low + high) / 2, Math.max(high - low, least)];
  };
  const [longitude, width] = range(points.map((point) => point.longitude), 60);
  const [latitude, height] = range(points.map((point) => point.latitude), 24);
  const scale = Math.min((MAP.width - 6 * MAP.margin) / width, (MAP.height - 5 * MAP.margin) / height);
  return (point) => [MAP.width / 2 + (point.longitude - longitude) * scale, MAP.height / 2 + MAP.margin - (point.latitude - latitude) * scale];
}

// Great circles bend towards the nearer pole, more so the longer and the farther from the equator they are.
function control(from, to, a, b) {
  const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
  const north = (a.latitude + b.latitude) / 2 >= 0 ? -1 : 1;
  const across = Math.abs(to[0] - from[0]) / Math.max(length, 1);
  return [(from[0] + to[0]) / 2, (from[1] + to[1]) / 2 + north * length * 0.3 * across];
}

// ---- life ----

function draw() {
  $("main").hidden = false;
  drawSummary();
  drawRegions();
  drawMap();
  drawMatrix();
  drawLag();
  drawNodes();
  drawSlots();
  drawClocks();
}

// Ages, spans and staleness that grow move on between refreshes.
function tick() {
  const passed = receivedAt === null ? null : (performance.now() - receivedAt) / 1000;
  if (passed !== null) {
    for (const node of document.querySelectorAll("[data-age]")) node.textContent = ago(Number(node.dataset.age) + passed, "steps" in node.dataset);
    // What is not seen any more does not last any longer.
    const lasted = Math.min(passed, STALE_MS / 1000);
    for (const node of document.querySelectorAll("[data-for]")) node.textContent = since(Number(node.dataset.for) + lasted);
    for (const node of document.querySelectorAll("[data-grows]")) node.textContent = words(Number(node.dataset.grows) + passed);
  }
  const stale = passed === null ? failure !== null : passed * 1000 > STALE_MS;
  document.body.classList.toggle("stale", stale);
  const pulse = $("pulse");
  pulse.dataset.is = failure || stale ? "late" : "live";
  pulse.textContent = passed === null ? (failure ? "no data" : "loading") : passed * 1000 < 2 * REFRESH_MS ? "live" : `data ${span(passed)} old`;
  const alarm = $("alarm");
  const alarming = trouble(passed, stale);
  alarm.hidden = !alarming;
  if (alarming && alarm.textContent !== alarming) alarm.textContent = alarming;
}

// What is wrong with the page itself, if anything is.
function trouble(passed, stale) {
  if (stale && passed === null) return `The collector does not answer (${failure}). Nothing is known.`;
  if (stale) return `The collector has not answered for ${span(passed)} (${failure || "no answer"}). What stands below is the past.`;
  const ages = status && status.regions_reporting === 0 ? status.regions.map((region) => region.evidence_age_s.age_s).filter(Number.isFinite) : [];
  return ages.length ? `No agent has reported to this collector for ${span(Math.min(...ages) + passed)}: it is blind. What stands below is the past.` : null;
}

async function refresh() {
  try {
    const answer = await fetch("v1/status", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    status = await answer.json();
    receivedAt = performance.now();
    failure = null;
  } catch (error) {
    failure = error.name === "TimeoutError" ? "it takes too long" : error.message;
  }
  // Nothing is redrawn under a reader's selection; ages go on.
  if (!failure && status && !String(document.getSelection())) draw();
  tick();
  setTimeout(refresh, REFRESH_MS);
}

drawLegend();
tick();
refresh();
setInterval(tick, 500);
