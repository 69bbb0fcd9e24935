// The page of one table. Everything from the table is set as text, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const TABS = ["search", "rejects", "history"];
const state = { table: null, query: null, asked: null, round: 0 };

async function get(path, params = {}) {
  const answer = await fetch(`${path}?${new URLSearchParams(params)}`);
  const body = await answer.json().catch(() => ({ error: `the server answered ${answer.status}; see its terminal` }));
  if (!answer.ok) throw new Error(body.error);
  return body;
}

async function ask(content, type) {
  const answer = await fetch("/api/ask", { method: "POST", headers: { "Content-Type": type }, body: content });
  const body = await answer.json().catch(() => ({ error: `the server answered ${answer.status}; see its terminal` }));
  if (!answer.ok) throw new Error(body.error);
  return body.query;
}

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function say(problem) {
  $("problem").hidden = !problem;
  $("problem").textContent = problem ? `${problem}` : "";
}

const count = (number) => number.toLocaleString("en");
const size = (bytes) => (bytes < 1e3 ? `${bytes} B` : bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

// The sliders: dims are rungs of the ladder, candidates grow by equal factors.
const dim = () => state.table.dims[Number($("dim").value)];
const k = () => Math.min(200, Math.max(1, Number($("k").value) || 12));
function candidates() {
  const most = state.table.max_candidates, least = Math.min(k(), most);
  return Math.max(1, Math.round(least * (most / least) ** (Number($("candidates").value) / 100)));
}

function settings() {
  return { query: state.query, candidates: candidates(), k: k(), where: $("where").value };
}

async function update() {
  $("dim-value").textContent = dim();
  $("candidates-value").textContent = count(candidates());
  const round = ++state.round;
  try {
    if (!state.query) {
      const rows = await get("/api/rows", { k: k(), where: $("where").value });
      if (round !== state.round) return;
      $("asked").textContent = "The first rows, before any question.";
      showRows(rows);
      say("");
      return;
    }
    const found = await get("/api/hits", { ...settings(), dim: dim() });
    if (round !== state.round) return;
    showHits(found);
    say("");
    const points = await get("/api/sweep", settings());
    if (round === state.round) showChart(points);
  } catch (error) {
    if (round === state.round) say(error.message);
  }
}

let waiting = 0;
function updateSoon() {
  $("dim-value").textContent = dim();
  $("candidates-value").textContent = count(candidates());
  clearTimeout(waiting);
  waiting = setTimeout(update, 60);
}

function showHits(found) {
  const whole = state.table.rows_in_memory * state.table.dims.at(-1) * 2;
  $("recall").textContent = found.hits.length ? found.recall.toFixed(3) : "–";
  $("recall-bar").value = found.recall;
  $("time").textContent = `${found.milliseconds.toFixed(1)} ms`;
  $("bytes").textContent = size(found.bytes);
  $("bytes-bar").value = found.bytes / whole;
  $("share").textContent = `${(100 * found.bytes / whole).toFixed(1)} % of comparing every full vector`;
  showRows(found.hits);
}

function showRows(rows) {
  const pictures = state.table.has_pictures;
  $("hits").className = pictures ? "pictures" : "";
  $("hits").replaceChildren(...rows.map((row) => card(row, pictures)));
  if (!rows.length) $("hits").replaceChildren(element("li", "No row satisfies the filter."));
}

function card(hit, pictures) {
  const item = element("li");
  if (hit.is_right === false) {
    item.className = "wrong";
    item.title = "Not among the exact nearest rows: the first stage lost a better one";
  }
  const values = Object.entries(hit.columns).filter(([name, value]) => name !== "id" && value !== null);
  const title = values.find(([, value]) => typeof value === "string") ?? ["id", hit.columns.id];
  if (pictures) {
    const image = element("img", "", { src: `/thumbnails/${hit.row}`, alt: `${title[1]}`, loading: "lazy" });
    image.addEventListener("error", () => image.remove());
    item.append(image);
  }
  item.append(element("b", `${title[1]}`));
  const others = [...values.filter(([name]) => name !== title[0]), ...(title[0] === "id" ? [] : [["id", hit.columns.id]])];
  if (others.length) item.append(element("p", others.map(([name, value]) => `${name}: ${value}`).join(" · ")));
  const more = element("button", "more like this", { type: "button", "aria-label": `more like ${title[1]}` });
  more.addEventListener("click", () => askLike(hit.row, title[1], pictures));
  const footer = element("footer");
  footer.append(element("span", hit.score === undefined ? "" : hit.score.toFixed(4)), more);
  item.append(footer);
  return item;
}

function showChart(points) {
  const left = 30, right = 305, top = 10, bottom = 125, svg = (tag, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  };
  const logs = points.map((point) => Math.log2(point.dim)), span = logs.at(-1) - logs[0] || 1;
  const x = (index) => left + ((logs[index] - logs[0]) / span) * (right - left);
  const y = (recall) => bottom - recall * (bottom - top);
  const line = (name) => points.map((point, index) => `${index ? "L" : "M"}${x(index).toFixed(1)} ${y(point[name]).toFixed(1)}`).join("");
  const parts = [0, 0.5, 1].flatMap((recall) => [
    svg("line", { x1: left, x2: right, y1: y(recall), y2: y(recall), class: "axis" }),
    svg("text", { x: left - 5, y: y(recall) + 3, "text-anchor": "end" }, recall.toString()),
  ]);
  let last = Infinity;
  for (let index = points.length - 1; index >= 0; index--) {
    if (last - x(index) < 24) continue;
    last = x(index);
    parts.push(svg("text", { x: last, y: bottom + 16, "text-anchor": "middle" }, `${points[index].dim}`));
  }
  const now = Number($("dim").value);
  parts.push(svg("line", { x1: x(now), x2: x(now), y1: top, y2: bottom, class: "now" }));
  parts.push(svg("path", { d: line("alone"), class: "alone" }), svg("path", { d: line("recall"), class: "with" }));
  $("chart").replaceChildren(...parts);
}

async function search(make, ...shown) {
  state.round++; // an answer to an earlier question that still comes is dropped
  say("");
  try {
    state.query = await make();
  } catch (error) {
    say(error.message);
    return;
  }
  $("asked").replaceChildren(...shown);
  if (!document.activeElement.matches("#words, #file")) $("asked").focus({ preventScroll: true }); // its button goes
  await update();
}

const askWords = (words) => search(() => ask(JSON.stringify({ words }), "application/json"), element("span", `“${words}”`));
function askPicture(file) {
  const image = element("img", "", { src: URL.createObjectURL(file), alt: "the picture asked with" });
  return search(() => ask(file, "application/octet-stream"), image, element("span", file.name));
}
function askLike(row, title, pictures) {
  const shown = pictures ? [element("img", "", { src: `/thumbnails/${row}`, alt: "" })] : [];
  scrollTo({ top: 0, behavior: "smooth" });
  return search(() => ask(JSON.stringify({ like: row }), "application/json"), ...shown, element("span", `more like “${title}”`));
}

function grid(heads, rows) {
  const table = element("table"), head = element("tr"), scroll = element("div", "", { class: "scroll" });
  head.append(...heads.map((text) => element("th", text)));
  table.append(head, ...rows.map((row) => {
    const line = element("tr");
    line.append(...row.map((cell, column) => {
      const place = element("td", "", { "data-head": heads[column] });
      place.append(cell);
      return place;
    }));
    return line;
  }));
  scroll.append(table);
  return scroll;
}

async function showRejects() {
  const rejects = await get("/api/rejects"), chips = element("div", "", { class: "chips" }), list = element("div");
  const heads = ["reason", "shard", "position", "key", "message"];
  const show = (reason) => {
    const rows = rejects.first.filter((row) => !reason || row.reason === reason);
    list.replaceChildren(grid(heads, rows.map((row) => [row.reason, row.uri, row.position, row.key, row.message])));
    for (const chip of chips.children) chip.setAttribute("aria-pressed", `${chip.dataset.reason === reason}`);
  };
  for (const [reason, number] of rejects.reasons) {
    const chip = element("button", `${reason} ${count(number)}`, { type: "button", "data-reason": reason });
    chip.addEventListener("click", () => show(chip.getAttribute("aria-pressed") === "true" ? "" : reason));
    chips.append(chip);
  }
  const first = rejects.total > rejects.first.length ? `, the first ${count(rejects.first.length)} are listed` : "";
  const text = rejects.total ? `Samples that could not be embedded: ${count(rejects.total)}${first}.` : "Every sample was embedded.";
  $("rejects").replaceChildren(element("p", text), chips, list);
  if (rejects.total) show("");
}

async function showHistory() {
  const runs = await get("/api/history");
  const shown = (value) => (value === undefined ? "–" : typeof value === "number" ? count(value) : value);
  const figures = (summary) => {
    const all = element("details");
    all.append(element("summary", "all figures"), Object.entries(summary).map(([name, value]) => `${name} ${shown(value)}`).join(", "));
    return all;
  };
  const row = (run) => [run.started_at.replace("T", " ").slice(0, 16), run.job, run.state,
    ...["rows", "rejects", "seconds"].map((name) => shown(run.summary[name])), figures(run.summary), run.run];
  $("history").replaceChildren(element("p", runs.length ? "The runs that wrote this table, the newest first. Times are UTC." : "The journal holds no run."),
    ...(runs.length ? [grid(["started", "job", "state", "rows", "rejects", "seconds", "figures", "run"], runs.map(row))] : []));
}

function openTab(name) {
  for (const other of TABS) {
    $(other).hidden = other !== name;
    $(`tab-${other}`).tabIndex = other === name ? 0 : -1; // arrows move between tabs
    $(`tab-${other}`).setAttribute("aria-selected", `${other === name}`);
  }
  const show = { rejects: showRejects, history: showHistory }[name];
  if (show) show().catch((error) => $(name).replaceChildren(element("p", error.message)));
}

function listen() {
  $("more").open = !matchMedia("(max-width: 820px)").matches; // there, the hits come before the chart
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const words = $("words").value.trim();
    if (words) askWords(words);
  });
  $("file").addEventListener("change", () => $("file").files.length && askPicture($("file").files[0]));
  for (const id of ["dim", "candidates"]) $(id).addEventListener("input", updateSoon);
  for (const id of ["k", "where"]) $(id).addEventListener("change", update);
  for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => openTab(name));
  document.querySelector("nav").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], at = TABS.findIndex((name) => event.target.id === `tab-${name}`);
    if (!step || at < 0) return;
    const name = TABS[(at + step + TABS.length) % TABS.length];
    openTab(name);
    $(`tab-${name}`).focus();
  });
  addEventListener("keydown", (event) => {
    if (event.target.matches("input:not([type=range])") || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { "[": ["dim", -1], "]": ["dim", 1], ",": ["candidates", -5], ".": ["candidates", 5] };
    if (event.key === "/") {
      event.preventDefault();
      openTab("search");
      $("words").focus();
    } else if (moves[event.key]) {
      const [id, step] = moves[event.key];
      $(id).value = Number($(id).value) + step;
      updateSoon();
    }
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    $("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("drop").hidden = true;
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").hidden = true;
    const file = [...event.dataTransfer.files][0];
    if (file) askPicture(file);
  });
}

async function start() {
  state.table = await get("/api/table");
  const table = state.table;
  document.title = `${table.name}: explore`;
  $("name").textContent = table.name;
  const sample = table.rows_in_memory < table.rows ? `, the sliders speak of a random sample of ${count(table.rows_in_memory)}` : "";
  $("facts").textContent = `${count(table.rows)} rows${sample}, ${table.dims.at(-1)} dims by ${table.encoder}${table.rotated ? ", rotated" : ""}, version ${table.version}`;
  $("dim").max = table.dims.length - 1;
  $("dim").value = Math.floor((table.dims.length - 1) / 2);
  const funnels = table.funnels.filter((funnel) => funnel.stages);
  $("funnel").textContent = funnels.length
    ? `This table has a tuned funnel (${funnels[0].home}): ${funnels[0].stages.join(" → ")}, for recall@${funnels[0].k} ≥ ${funnels[0].recall}.`
    : "This table has no tuned funnel yet; mlake funnel makes one.";
  if (!table.takes_questions) $("words").placeholder = "These vectors are precomputed: choose “more like this”";
  listen();
  openTab("search");
  update();
}

start().catch((error) => say(error.message));
