"use strict";
// No dependency, no inline script or style, no address but this server's own. Texts go in as text, never as markup.
const element = (id) => document.getElementById(id);
const state = { hits: [], searched: 0, statistics: null, query: null, offset: 0, urls: [] };
const PAGE = 50;

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in node) node[key] = value; else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function tell(text) {
  element("message").textContent = text;
  element("message").hidden = !text;
}

async function call(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...(options.headers || {}), ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("the server does not answer");
  }
  if (response.status === 401) {
    element("login").hidden = false;
    element("token").focus();
  }
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Error(body.error || `status ${response.status}`);
  }
  return response;
}

const get = async (path) => (await call(path)).json();
const send = async (method, path, body) =>
  (await call(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body || {}) })).json();

function guarded(action) {
  return async (event) => {
    if (event && event.preventDefault) event.preventDefault();
    tell("");
    try { await action(event); } catch (error) { tell(error.message); }
  };
}

async function show(image, id) {
  try {
    const blob = await (await call(`/api/images/${id}`)).blob();
    image.src = URL.createObjectURL(blob);
    image.onload = () => URL.revokeObjectURL(image.src);
  } catch { image.alt = "the file cannot be read"; }
}

const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) { observer.unobserve(entry.target); show(entry.target, entry.target.dataset.id); }
  }
}, { rootMargin: "300px" });

function picture(record) {
  const image = make("img", { alt: `image ${record.id}`, width: 64, height: 128 });
  image.dataset.id = record.id;
  observer.observe(image);
  return image;
}

function when(seconds) {
  if (seconds === null) return "";
  return seconds < 1e8 ? `${seconds} s` : new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ");
}

const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
const place = (record) => [record.camera === null ? "" : /^\d+$/.test(record.camera) ? `camera ${record.camera}` : record.camera, when(record.time)].filter(Boolean);

// ---- search

function expectedRate(threshold) {
  // between the thresholds that are known, the logarithm of the rate changes evenly
  const known = [...(state.statistics?.thresholds || [])].sort((a, b) => a.threshold - b.threshold);
  if (!known.length) return null;
  if (threshold < known[0].threshold) return { text: `more than ${known[0].fpr}`, rate: null };
  const last = known[known.length - 1];
  if (threshold >= last.threshold) return { text: `${threshold > last.threshold ? "at most " : ""}${last.fpr}`, rate: last.fpr };
  const upper = known.findIndex((point) => point.threshold > threshold);
  const [one, two] = [known[upper - 1], known[upper]];
  const share = (threshold - one.threshold) / (two.threshold - one.threshold);
  const rate = Math.exp(Math.log(one.fpr) * (1 - share) + Math.log(two.fpr) * share);
  return { text: `about ${rate.toPrecision(2)}`, rate };
}

function judge() {
  const threshold = Number(element("threshold").value);
  element("threshold-text").textContent = threshold.toFixed(3);
  const expected = expectedRate(threshold);
  const images = state.hits.length ? state.searched : state.statistics?.images || 0;
  element("rate").textContent = expected === null
    ? "Expected false positive rate: not known; reid-da index threshold or reid-da calibrate tells it."
    : `Expected false positive rate of a pair: ${expected.text}` + (expected.rate === null ? "."
      : `; false matches to be expected among ${images.toLocaleString("en")} images: ${(expected.rate * images).toPrecision(2)}.`);
  let matches = 0;
  state.hits.forEach((hit, number) => {
    const passes = hit.similarity >= threshold;
    matches += passes;
    element("hits").children[number].className = passes ? "match" : "below";
  });
  if (state.hits.length) {
    element("verdict").textContent = (matches ? `${matches} of ${state.hits.length} images at or above the threshold`
      : "Unknown: nobody at or above the threshold") + ` (${state.searched.toLocaleString("en")} searched)`;
  }
}

function filters(into) {
  into.append("top", element("top").value || "20");
  for (const box of document.querySelectorAll("#cameras input:checked")) into.append("camera", box.value);
  for (const key of ["after", "before"]) if (element(key).value) into.append(key, element(key).value);
  return into;
}

async function search() {
  if (!state.query) throw new Error("choose a picture first");
  element("verdict").textContent = "searching …";
  try {
    let found;
    if (typeof state.query === "number") {
      found = await get(`/api/images/${state.query}/similar?${filters(new URLSearchParams())}`);
    } else {
      const form = filters(new FormData());
      if (element("query-camera").value) form.append("query_camera", element("query-camera").value);
      form.append("image", state.query, "query");
      found = await (await call("/api/search", { method: "POST", body: form })).json();
    }
    state.hits = found.hits;
    state.searched = found.searched;
    element("hits").replaceChildren(...found.hits.map(card));
    element("csv").hidden = !found.hits.length;
    element("verdict").textContent = found.hits.length ? "" : "no image passes the filters";
    judge();
  } catch (error) {
    element("verdict").textContent = "";
    throw error;
  }
}

function card(hit) {
  const who = hit.identity === null ? "" : hit.name || `identity ${hit.identity}`;
  const again = make("button", { type: "button", ariaLabel: `Search for image ${hit.id}` }, "Similar");
  again.addEventListener("click", guarded(async () => {
    state.query = hit.id;
    element("preview").hidden = false;
    element("preview").alt = `query: image ${hit.id}`;
    await show(element("preview"), hit.id);
    await search();
    scrollTo({ top: 0 });
  }));
  return make("li", {}, picture(hit), make("p", { className: "figure" }, `${hit.rank}. ${hit.similarity.toFixed(3)}`),
    ...[...place(hit), who].filter(Boolean).map((text) => make("p", {}, text)), again);
}

function choose(file) {
  state.query = file;
  const preview = element("preview");
  preview.hidden = false;
  preview.alt = "query";
  preview.src = URL.createObjectURL(file);
  preview.onload = () => URL.revokeObjectURL(preview.src);
  preview.onerror = () => { preview.hidden = true; };
}

function csvCell(value) {
  // as the command line: what a spreadsheet would take for a formula gets an apostrophe in front
  let text = value === null || value === undefined ? "" : String(value);
  if (/^'*[=+\-@\t\r]/.test(text) && !/^[+-]?\d+(\.\d+)?$/.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function download(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function downloadHits() {
  const threshold = Number(element("threshold").value);
  const rows = [["rank", "similarity", "match", "id", "image", "camera", "time", "identity", "name"],
    ...state.hits.map((hit) => [hit.rank, hit.similarity, hit.similarity >= threshold ? "yes" : "no", hit.id, hit.path,
      hit.camera, when(hit.time), hit.identity, hit.name])];
  download("found.csv", new Blob([rows.map((row) => row.map(csvCell).join(",")).join("\n") + "\n"], { type: "text/csv" }));
}

// ---- identities

async function listIdentities(more) {
  state.offset = more ? state.offset + PAGE : 0;
  const found = await get(`/api/identities?offset=${state.offset}&limit=${PAGE}`);
  const items = found.identities.map(identityItem);
  if (more) element("identities").append(...items); else element("identities").replaceChildren(...items);
  element("more").hidden = state.offset + PAGE >= found.total;
  element("identity-count").textContent = found.total
    ? plural(found.total, "identity", "identities") : "no identities yet: reid-da cluster INDEX finds them";
  ticked();
}

const chosen = () => [...document.querySelectorAll(".pick:checked")].map((box) => Number(box.value));
function ticked() { element("merge").disabled = chosen().length < 2; }

function identityItem(identity) {
  const pick = make("input", { type: "checkbox", className: "pick", value: identity.id, ariaLabel: `Tick identity ${identity.id}` });
  pick.addEventListener("change", ticked);
  const times = [when(identity.first), when(identity.last)].filter(Boolean);
  const figures = `${plural(identity.images, "image", "images")}, ${plural(identity.cameras, "camera", "cameras")}` + (times.length ? `, ${times.join(" to ")}` : "");
  const field = make("input", { value: identity.name || "", maxLength: 100, placeholder: "name", ariaLabel: `Name of identity ${identity.id}` });
  const form = make("form", {}, field, make("button", {}, "Name"));
  form.addEventListener("submit", guarded(async () => {
    await send("PUT", `/api/identities/${identity.id}/name`, { name: field.value });
    await refresh();
  }));
  const open = make("button", { type: "button", ariaExpanded: "false" }, "Images");
  const sheet = make("div", { className: "sheet", hidden: true });
  open.addEventListener("click", guarded(async () => {
    sheet.hidden = !sheet.hidden;
    open.ariaExpanded = String(!sheet.hidden);
    if (!sheet.hidden) await fillSheet(sheet, identity.id);
  }));
  const title = make("strong", {}, identity.name || `identity ${identity.id}`);
  return make("li", {}, make("div", { className: "identity" }, pick, title,
    make("span", { className: "figures" }, figures), form, open), sheet);
}

async function fillSheet(sheet, number) {
  const { images } = await get(`/api/identities/${number}`);
  const split = make("button", { type: "button", disabled: true }, "Split ticked off");
  const boxes = images.map((image) => make("input", { type: "checkbox", value: image.id, ariaLabel: `Tick image ${image.id}` }));
  const picked = () => boxes.filter((box) => box.checked).map((box) => Number(box.value));
  const grid = make("ul", { className: "grid" }, ...images.map((image, at) => make("li", {}, picture(image),
    ...place(image).map((text) => make("p", {}, text)), make("label", {}, boxes[at], String(image.id)))));
  grid.addEventListener("change", () => { split.disabled = !picked().length; });
  split.addEventListener("click", guarded(async () => {
    await send("POST", "/api/split", { images: picked() });
    await refresh();
  }));
  sheet.replaceChildren(make("div", { className: "bar" }, split), grid);
}

async function refresh() {
  await Promise.all([statistics(), listIdentities(false)]);
}

// ---- all

async function statistics() {
  const first = state.statistics === null;
  state.statistics = await get("/api/statistics");
  const { images, identities, unassigned, cameras, model, thresholds, query_cameras } = state.statistics;
  element("summary").textContent = `${plural(images, "image", "images")}, ${plural(cameras.length, "camera", "cameras")}, ` +
    `${plural(identities, "identity", "identities")}, ${plural(unassigned, "image", "images")} without one; model ${model}`;
  if (first) {
    for (const { camera } of cameras) {
      if (camera === null) continue;
      element("cameras").append(make("label", {}, make("input", { type: "checkbox", value: camera }), camera));
    }
    element("cameras").hidden = cameras.every(({ camera }) => camera === null);
    for (const camera of query_cameras) element("query-camera").append(make("option", { value: camera }, camera));
    element("query-camera-choice").hidden = !query_cameras.length;
    // upwards to a step of the slider: below, the rate would be a higher one
    if (thresholds.length) element("threshold").value = Math.ceil(thresholds[thresholds.length - 1].threshold * 1000) / 1000;
  }
  judge();
}

function view(name) {
  for (const other of ["search", "identities"]) {
    element(`view-${other}`).hidden = other !== name;
    element(`tab-${other}`).setAttribute("aria-selected", String(other === name));
  }
  if (name === "identities") guarded(() => listIdentities(false))();
}

element("tab-search").addEventListener("click", () => view("search"));
element("tab-identities").addEventListener("click", () => view("identities"));
element("query").addEventListener("submit", guarded(search));
element("file").addEventListener("change", guarded(async () => {
  const [file] = element("file").files;
  if (file) { choose(file); await search(); }
}));
element("query-camera").addEventListener("change", guarded(async () => {
  if (state.query instanceof Blob) await search();
}));
element("threshold").addEventListener("input", judge);
element("csv").addEventListener("click", downloadHits);
element("more").addEventListener("click", guarded(() => listIdentities(true)));
element("merge").addEventListener("click", guarded(async () => {
  await send("POST", "/api/merge", { identities: chosen() });
  await refresh();
}));
element("undo").addEventListener("click", guarded(async () => {
  const { undone } = await send("POST", "/api/undo");
  await refresh();
  tell(undone ? `${undone} taken back` : "nothing to take back");
}));
element("identities-csv").addEventListener("click", guarded(async () => {
  download("identities.csv", await (await call("/api/identities.csv")).blob());
}));
element("login").addEventListener("submit", guarded(async () => {
  sessionStorage.setItem("token", element("token").value.trim());
  await statistics();
  element("login").hidden = true;
}));
const drop = element("drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
  });
}
addEventListener("drop", guarded(async (event) => {
  const [file] = event.dataTransfer.files;
  if (file) { view("search"); choose(file); await search(); }
}));
addEventListener("paste", guarded(async (event) => {
  const [file] = event.clipboardData.files;
  if (file) { view("search"); choose(file); await search(); }
}));
guarded(statistics)();
