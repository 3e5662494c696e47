// The dashboard: one stream of samples, see chatflow/edge/dashboard.py, drawn as they come.

import { Chart, clock, element, number } from "/dashboard/charts.js";

const SECONDS = 300;
const SILENT_MS = 4000; // a sample comes each second
const AGAIN_MS = 3000;
const $ = (id) => document.getElementById(id);

const latency = (name, index) => (sample) => sample.latencies_ms[name]?.[index] ?? null;
const percentiles = (name) => [["p50", latency(name, 0)], ["p95", latency(name, 1)], ["p99", latency(name, 2)]];

const charts = {
  throughput: new Chart({ title: "Throughput", unit: "messages/s", seconds: SECONDS, least: 5, series: [
    ["received", (s) => s.rates.received], ["acknowledged", (s) => s.rates.acknowledged], ["stored", (s) => s.rates.stored]] }),
  deliveries: new Chart({ title: "Deliveries", unit: "messages to members/s", seconds: SECONDS, least: 5, series: [
    ["delivered", (s) => s.rates.delivered]] }),
  ack: new Chart({ title: "Latency of acks", unit: "ms", seconds: SECONDS, least: 5, series: percentiles("ack") }),
  commit: new Chart({ title: "Latency of commits", unit: "ms", seconds: SECONDS, least: 5, series: percentiles("commit") }),
  fanout: new Chart({ title: "Latency of fan-out", unit: "ms", seconds: SECONDS, least: 5, series: percentiles("fanout") }),
  waiting: new Chart({ title: "Waiting", unit: "messages", seconds: SECONDS, least: 5, series: [
    ["for their answer", (s) => s.pending], ["for a commit", (s) => s.waiting]] }),
  lag: new Chart({ title: "Lag of the room queues", unit: "s", seconds: SECONDS, series: [["oldest envelope", (s) => s.lag_seconds]] }),
  connections: new Chart({ title: "Connections and rooms", unit: "", seconds: SECONDS, least: 5, series: [
    ["connections", (s) => s.connections], ["rooms with members", (s) => s.rooms]] }),
  errors: new Chart({ title: "Errors", unit: "per s", seconds: SECONDS, quiet: true, series: [
    "messages refused", "connections refused", "slow clients closed", "silent clients dropped", "database retries",
    "dead letters", "fan-out given up", "AWS calls failed"].map((name) => [name, (s) => s.errors[name] ?? null]) }),
  process: new Chart({ title: "Process", unit: "", seconds: SECONDS, least: 100, series: [
    ["CPU %", (s) => s.cpu * 100], ["memory MiB", (s) => s.memory_bytes / 2 ** 20]] }),
};
const ofCluster = [charts.fanout, charts.lag];
for (const chart of Object.values(charts)) $("charts").append(chart.root);
for (const chart of ofCluster) chart.root.hidden = true;

const numbers = [
  ["Acknowledged", "/s", (s) => s.rates.acknowledged],
  ["Delivered", "/s", (s) => s.rates.delivered],
  ["Ack p99", " ms", (s) => s.latencies_ms.ack?.[2] ?? null],
  ["Connections", "", (s) => s.connections],
  ["Waiting", "", (s) => Math.max(s.pending, s.waiting)],
  ["Lag", " s", (s) => s.lag_seconds, (value) => (value >= 5 ? "warn" : ""), true],
  ["Dead letters", "", (s) => s.dead_letters, (value) => (value ? "warn" : "")],
  ["Errors", "/s", (s) => Object.values(s.errors).reduce((sum, value) => sum + value, 0), (value) => (value ? "warn" : "")],
].map(([label, unit, read, judge = () => "", ofCluster = false]) => {
  const value = element("dd", {}, "–");
  const box = element("div", {}, element("dt", {}, label), value);
  $("numbers").append(box);
  return { box, value, unit, read, judge, ofCluster };
});

let samples = [];
let source = null;
let heardAt = performance.now();
let brokenSince = null; // wall time, to be shown
let leaving = false;
let paused = false;
let told = "";

function ago(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

function listen() {
  source?.close();
  source = new EventSource("/dashboard/events");
  source.onmessage = (event) => {
    heardAt = performance.now();
    brokenSince = null;
    leaving = false;
    take(JSON.parse(event.data), event.lastEventId);
  };
  source.addEventListener("bye", () => {
    leaving = true;
    lost();
  });
  source.onerror = () => {
    lost();
    // A browser tries again by itself, unless the answer was no stream, as 503 is not.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN_MS);
  };
}

function lost() {
  brokenSince ??= Date.now();
  render();
}

function take(sample, id) {
  if (samples.at(-1)?.id === id) return;
  const last = samples.at(-1);
  // What another instance says is no continuation of these lines.
  if (last && (last.server !== sample.server || sample.at < last.at)) samples = [];
  samples.push({ ...sample, id });
  while (samples[0].at < sample.at - (SECONDS + 5) * 1000) samples.shift();
  plan();
}

// The samples of the past come all at once, and are drawn once.
let planned = false;
function plan() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    render();
  });
}

function troublesNow(sample) {
  const found = [...(sample?.alarms ?? [])];
  if (brokenSince !== null) {
    const seconds = (Date.now() - brokenSince) / 1000;
    const text = leaving
      ? "The instance that answered has stopped: looking for another"
      : "This page hears nothing from the server: it is down, hangs, or cannot be reached";
    found.unshift({ key: "link", level: leaving && seconds < 10 ? "warn" : "bad", text, since_seconds: seconds });
  }
  return found;
}

function renderAlarms(sample) {
  const alarms = troublesNow(sample);
  $("list").replaceChildren(...alarms.map((alarm) => element("li", { class: `alarm ${alarm.level}` }, element("span", {}, alarm.text), " ",
    element("span", {}, `since ${clock(Date.now() - alarm.since_seconds * 1000)}, ${ago(alarm.since_seconds)}`))));
  $("fine").hidden = alarms.length > 0 || !sample;
  const bad = alarms.filter((alarm) => alarm.level === "bad");
  document.title = `${alarms.length ? `${bad.length ? "✕" : "!"} ${alarms[0].text} · ` : ""}ChatFlow dashboard`;
  // Said once when it begins and once when all is over, not with each second that it lasts.
  const keys = alarms.map((alarm) => alarm.key).join();
  if (keys !== told) {
    $("said").textContent = alarms.length ? alarms.map((alarm) => alarm.text).join(". ") : told ? "All is well again" : "";
    told = keys;
  }
}

function renderLink(sample) {
  const state = brokenSince !== null ? "lost" : paused ? "paused" : sample ? "live" : "waiting";
  $("link").dataset.state = state;
  $("link-text").textContent = { lost: "no connection", paused: "paused", live: "live", waiting: "connecting" }[state];
  if (!sample) return;
  $("who").replaceChildren("answered by ", element("b", {}, sample.server), `, up ${ago(sample.up_seconds)}, ${clock(sample.at)}`);
}

function renderServers(sample) {
  $("instances").hidden = !sample.servers.length;
  const states = { up: "up", silent: "silent", lost: "taken for dead", left: "stopped in order", unknown: "not known now" };
  $("instances").querySelector("tbody").replaceChildren(...sample.servers.map((server) => element("tr", { "data-state": server.state },
    element("td", {}, server.id, ...(server.id === sample.server ? [" ", element("span", { class: "hint" }, "answers")] : [])),
    element("td", { class: "state" }, states[server.state]),
    element("td", {}, `${ago(server.silent_seconds)} ago`),
    element("td", {}, server.up_seconds === null ? "–" : clock(sample.at - server.up_seconds * 1000)))));
  const known = sample.servers.length > 1 ? `, one of ${sample.servers.length} instances` : "";
  $("scope").textContent = sample.cluster ? `Figures below are those of ${sample.server}${known}.` : "";
}

function renderRooms(sample) {
  const rooms = Object.entries(sample.members).sort(([a, m], [b, n]) => n - m || a - b);
  const most = Math.max(1, ...rooms.map(([, members]) => members));
  $("empty").hidden = rooms.length > 0;
  $("rooms-count").textContent = sample.rooms > rooms.length ? `the ${rooms.length} with most members of ${sample.rooms}` : "members here";
  $("rooms").querySelector("ol").replaceChildren(...rooms.map(([room, members]) => element("li", {}, element("span", {}, `Room ${room}`),
    element("meter", { min: 0, max: most, value: members, "aria-hidden": "true" }), element("b", {}, number(members)))));
}

function render() {
  const sample = samples.at(-1);
  renderAlarms(sample);
  renderLink(sample);
  if (!sample || paused) return;
  for (const { box, value, unit, read, judge, ofCluster } of numbers) {
    const read_ = read(sample);
    value.replaceChildren(number(read_), ...(unit && read_ !== null ? [element("small", {}, unit)] : []));
    box.className = judge(read_);
    box.hidden = ofCluster && !sample.cluster;
  }
  renderServers(sample);
  renderRooms(sample);
  for (const chart of ofCluster) chart.root.hidden = !sample.cluster;
  // While nothing comes, time goes on in the charts as well.
  const now = sample.at + Math.max(0, performance.now() - heardAt);
  for (const chart of Object.values(charts)) if (!chart.root.hidden) chart.draw(samples, now);
}

function describe() {
  if (!paused) for (const chart of Object.values(charts)) chart.describe();
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  render();
});
addEventListener("resize", plan);
// A tab that nobody sees costs the server nothing.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    source?.close();
  } else {
    heardAt = performance.now();
    listen();
  }
});

setInterval(() => {
  if (!document.hidden && performance.now() - heardAt > SILENT_MS) lost();
}, 1000);
setInterval(describe, 15000);
setTimeout(describe, 1500);
listen();
