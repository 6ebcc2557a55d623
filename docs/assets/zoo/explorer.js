// The zoo explorer: a table (DataTables) and a plot (Plotly) of zoo.json, with the view kept in the address.
import DataTable from "./datatables.js";

const root = document.getElementById("zoo");
const form = root.querySelector("form");
const chart = document.getElementById("zoo-chart");
const count = document.getElementById("zoo-count");
const axes = { x: root.querySelector("[name=x]"), y: root.querySelector("[name=y]") };
const zoo = await (await fetch(new URL("zoo.json", import.meta.url))).json();

const TASKS = ["classification", "detection", "segmentation", "generation"];
const WEIGHTS = { direct: "by address", shipped: "in the package", "by hand": "by hand", none: "none" };
const SYMBOLS = { paper: "circle", repository: "square", mmpretrain: "diamond", measured: "star" };
const COLORS = ["#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e",
  "#9498a0", "#1f9e89", "#d62728", "#8c6bb1", "#b5a642"];
const families = Object.keys(zoo.families);
const byId = new Map(zoo.rows.map((row) => [row.id, row]));

const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const link = (url, text) => `<a href="${escape(url)}">${escape(text)}</a>`;
const source = (name) => `<small class="zoo-source" data-source="${name}">${name}</small>`;
const millions = (n) => (n / 1e6).toFixed(n < 1e6 ? 2 : 1);
const billions = (n) => (n / 1e9).toPrecision(n < 1e9 ? 2 : Math.max(3, String(Math.round(n / 1e9)).length));
const decimal = (n) => (Number.isInteger(n) ? n.toFixed(1) : `${n}`);
const span = ([least, most]) => (least === most ? `${least}` : `${least} – ${most}`);
const size = (bytes) => (bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

// What can be plotted and shown: columns, each with its value for sorting and its cell -------------------------------

const speedOn = (row, machine) => row.speed.find((speed) => speed.machine === machine)?.inference;
const middle = (range) => range && (range[0] + range[1]) / 2;

const COLUMNS = [
  { key: "model", title: "Model", value: (row) => row.title, always: true,
    cell: (row) => `<button type="button" class="zoo-open" aria-expanded="false">${escape(row.title)}</button>` +
      (row.config && row.task !== "classification" ? `<small>${escape(row.config)}</small>` : "") },
  { key: "family", title: "Family", value: (row) => row.family },
  { key: "task", title: "Task", value: (row) => row.task },
  { key: "input", title: "Input", value: (row) => parseInt(row.input), cell: (row) => row.input, number: true },
  { key: "params", title: "Params, M", value: (row) => row.params, cell: (row) => millions(row.params), number: true },
  { key: "macs", title: "MACs, G", value: (row) => row.macs, cell: (row) => billions(row.macs), number: true },
  ...["params", "macs"].map((key) => ({
    key: `published-${key}`, title: key === "params" ? "Params, published" : "MACs, published", number: true,
    value: (row) => parseFloat(row.published[key]),
    cell: (row) => row.published[key] && `${row.published[key]} ${source(row.published_source)}` })),
  ...zoo.metrics.map(({ key, title, task }) => ({
    key, title, task, number: true, isMetric: true,
    value: (row) => row.results[key]?.[0].value,
    cell: (row) => row.results[key] && `${decimal(row.results[key][0].value)} ${source(row.results[key][0].source)}` })),
  ...zoo.machines.map((machine, i) => ({
    key: `speed-${i}`, title: `Speed, × resnet50, ${machine}`, task: "classification", number: true, isSpeed: true,
    about: "inference, compared with timm's resnet50 in the same process",
    value: (row) => middle(speedOn(row, machine)),
    cell: (row) => speedOn(row, machine) && `${span(speedOn(row, machine))} ${source("measured")}` })),
  { key: "weights", title: "Weights", value: (row) => WEIGHTS[row.weights.status] },
  { key: "license", title: "Licence", value: (row) => row.license },
  { key: "data", title: "Trained on", value: (row) => row.data },
].filter((column) => !column.isMetric || zoo.rows.some((row) => row.results[column.key]));
const columnOf = Object.fromEntries(COLUMNS.map((column) => [column.key, column]));
const metrics = COLUMNS.filter((column) => column.isMetric);
const costs = COLUMNS.filter((column) => ["params", "macs"].includes(column.key) || column.isSpeed);

const isNarrow = matchMedia("(max-width: 45em)").matches;
/** Columns shown unless chosen: of the task, and few on a phone. */
function usualColumns(task) {
  const results = metrics.filter((m) => (!task || m.task === task) && !m.key.startsWith("digits")).map((m) => m.key);
  if (isNarrow) return ["model", "params", results[0]];
  const speed = task === "classification" ? ["speed-0"] : [];
  return ["model", "family", ...(task ? [] : ["task"]), "input", "params", "macs", ...results, ...speed, "weights",
    "license"];
}

// The view, which the address keeps -------------------------------------------------------------------------------------

const LISTS = ["family", "license", "weights", "columns"];
const LIMITS = ["params", "macs", "accuracy"];
const DEFAULTS = { task: "classification", x: "params", sort: "", open: "", text: "" };

/** A view from the query of an address. */
function read(query) {
  const given = new URLSearchParams(query);
  const view = { ...DEFAULTS };
  for (const key of Object.keys(DEFAULTS)) if (given.has(key)) view[key] = given.get(key);
  for (const key of LISTS) view[key] = given.get(key)?.split(",").filter(Boolean) ?? [];
  for (const key of LIMITS) view[key] = given.get(key) ?? "";
  if (view.task && !TASKS.includes(view.task)) view.task = DEFAULTS.task;
  view.y = given.get("y") ?? "";
  return settle(view);
}

/** Replace what does not exist, or does not belong to the task. */
function settle(view) {
  const usable = metrics.filter((m) => !view.task || m.task === view.task);
  if (!usable.some((m) => m.key === view.y)) view.y = usable[0].key;
  if (!costs.some((column) => column.key === view.x)) view.x = "params";
  view.columns = view.columns.filter((key) => columnOf[key]);
  return view;
}

function write() {
  const query = new URLSearchParams();
  const usual = read(`?task=${view.task}`);
  for (const key of ["task", ...LISTS, ...LIMITS, "text", "x", "y", "sort", "open"]) {
    const value = String(view[key]);
    if (value !== String(key === "task" ? DEFAULTS.task : usual[key])) query.set(key, value);
  }
  history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}`);
}

let view = read(location.search);

/** Whether a row is in the view; the search is the table's. */
function keeps(row) {
  const isIn = (list, value) => !list.length || list.includes(value);
  const atMost = (limit, value) => limit === "" || value <= Number(limit);
  return (!view.task || row.task === view.task) && isIn(view.family, row.family) && isIn(view.license, row.license) &&
    isIn(view.weights, row.weights.status) && atMost(view.params, row.params / 1e6) && atMost(view.macs, row.macs / 1e9) &&
    (view.accuracy === "" || columnOf[view.y].value(row) >= Number(view.accuracy));
}

// Table -----------------------------------------------------------------------------------------------------------------

const isBlank = (value) => value === undefined || value === null || Number.isNaN(value) || value === "";
for (const [order, sign] of [["asc", 1], ["desc", -1]]) { // blanks stand last either way
  DataTable.ext.type.order[`zoo-${order}`] = (a, b) =>
    isBlank(a) || isBlank(b) ? isBlank(a) - isBlank(b) :
      sign * (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
}
DataTable.ext.search.push((settings, data, index, row) => keeps(row));

const table = new DataTable("#zoo-table", {
  data: zoo.rows, rowId: (row) => `row-${row.id}`, paging: false, autoWidth: false, order: [],
  layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
  language: { zeroRecords: "Nothing in the zoo is like that: loosen a filter, or reset." },
  search: { search: view.text },
  columns: COLUMNS.map((column) => ({
    name: column.key, title: column.title, type: "zoo", data: null, defaultContent: "",
    className: `zoo-${column.key}${column.number ? " zoo-number" : ""}`,
    orderSequence: column.isMetric || column.isSpeed ? ["desc", "asc"] : ["asc", "desc"],
    render: (_, type, row) => {
      if (type === "display") return column.cell ? column.cell(row) ?? "–" : escape(column.value(row));
      if (type === "filter") return column.key === "model" ? `${row.title} ${row.id}` : `${column.value(row) ?? ""}`;
      return column.value(row);
    },
  })),
});
for (const column of COLUMNS) if (column.about) table.column(`${column.key}:name`).header().title = column.about;

function showColumns() {
  const shown = view.columns.length ? view.columns : usualColumns(view.task);
  for (const { key, always } of COLUMNS) table.column(`${key}:name`).visible(always || shown.includes(key), false);
  for (const box of form.querySelectorAll("[name=columns]")) box.checked = shown.includes(box.value);
}

table.on("order.dt", () => {
  const [[index, order] = []] = table.order();
  view.sort = index === undefined || !order ? "" : `${COLUMNS[index].key}.${order}`;
  write();
});

// Rows that open --------------------------------------------------------------------------------------------------------

function numbers(row) {
  const counted = `<small class="zoo-source">counted here</small>`;
  const lines = [["Parameters", `${row.params.toLocaleString("en")} ${counted}`],
    [`MACs at ${row.input}`, `${row.macs.toLocaleString("en")} ${counted}`]];
  for (const [key, title] of [["params", "Parameters, published"], ["macs", "MACs, published"]]) {
    if (row.published[key]) lines.push([title, `${row.published[key]} ${source(row.published_source)}`]);
  }
  for (const { key, title } of zoo.metrics) {
    for (const result of row.results[key] ?? []) lines.push([title, `${decimal(result.value)} ${source(result.source)}`]);
  }
  for (const { title, value, source: from } of row.others) lines.push([title, `${decimal(value)} ${source(from)}`]);
  for (const speed of row.speed) {
    const parts = [["inference", speed.inference], ["training step", speed.training]].filter(([, range]) => range);
    const text = parts.map(([what, range]) => `${what} ${span(range)}`).join(", ");
    lines.push([`Speed, times <code>resnet50</code>, on ${escape(speed.machine)}`, `${text} ${source("measured")}`]);
  }
  return lines.map(([title, text]) => `<dt>${title}</dt><dd>${text}</dd>`).join("");
}

function weightsOf({ weights }) {
  const hash = weights.sha256 && `SHA-256 <code>${weights.sha256}</code>${weights.sha256.length < 64 ? " …" : ""}`;
  const where = weights.url ? link(weights.url, weights.file || weights.url) : escape(weights.file ?? "");
  const note = escape(weights.note ?? "").replace(/https:\/\/[^\s,)]+/g, (url) => link(url, "their page"));
  const isRemote = weights.status === "direct";
  return [where, note, weights.bytes ? size(weights.bytes) : isRemote && "size: checked against what the server states",
    hash || (isRemote && "no hash published")].filter(Boolean).join("<br>");
}

function details(row) {
  const family = zoo.families[row.family];
  const code = (title, text) => `<figure><figcaption>${escape(title)} <button type="button" class="zoo-copy">Copy</button>` +
    `</figcaption><pre tabindex="0"><code>${escape(text)}</code></pre></figure>`;
  return `<div class="zoo-details"><div>${row.snippets.map((s) => code(s.title, s.code)).join("")}` +
    (row.config_text ? `<details><summary>Config <code>${escape(row.config)}</code></summary>` +
      `${code("Config", row.config_text)}</details>` : "") +
    `</div><dl>${numbers(row)}<dt>Weights</dt><dd>${weightsOf(row)}</dd><dt>Licence</dt><dd>${escape(row.license)}</dd>` +
    `<dt>Trained on</dt><dd>${escape(row.data)}</dd>` +
    `<dt>From</dt><dd>${link(family.paper_url, family.paper)}; ${link(family.code_url, "the authors' code")}</dd>` +
    `<dd><button type="button" class="zoo-locate">Show in the plot</button></dd></dl></div>`;
}

/** Open the row of an id ("" closes), and go there if asked to. */
function open(id, go = false) {
  for (const shown of root.querySelectorAll("tr.zoo-opened")) {
    table.row(shown).child.hide();
    shown.classList.remove("zoo-opened");
    shown.querySelector(".zoo-open").setAttribute("aria-expanded", "false");
  }
  const row = byId.has(id) ? table.row(`#row-${CSS.escape(id)}`) : null;
  view.open = row ? id : "";
  if (row) {
    row.child(details(row.data()), "zoo-child").show();
    const node = row.node();
    node.classList.add("zoo-opened");
    const button = node.querySelector(".zoo-open");
    button.setAttribute("aria-expanded", "true");
    if (go) {
      button.focus({ preventScroll: true });
      node.scrollIntoView({ block: "start" });
    }
  }
  write();
  ring();
}

async function copy(button) {
  const code = button.closest("figure").querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch { // a page that is not served securely has no clipboard: select, and copy as of old
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

root.querySelector("tbody").addEventListener("click", (event) => {
  const { target } = event;
  if (target.matches(".zoo-copy")) return copy(target);
  if (target.matches(".zoo-locate")) return chart.scrollIntoView({ block: "center" });
  const row = target.closest("tr[id]");
  if (row && !target.closest("a") && getSelection().isCollapsed) {
    const id = table.row(row).data().id;
    open(view.open === id ? "" : id);
  }
});
root.querySelector("tbody").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !event.target.matches(".zoo-open")) return;
  const buttons = [...root.querySelectorAll(".zoo-open")];
  buttons[buttons.indexOf(event.target) + step]?.focus();
  event.preventDefault();
});

// Plot ------------------------------------------------------------------------------------------------------------------

const colour = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

/** Points that no other one beats on both axes, from the cheapest on. */
function front(points, isCost) {
  const sorted = [...points].sort((a, b) => (isCost ? a.x - b.x : b.x - a.x) || b.y - a.y);
  let best = -Infinity;
  return sorted.filter(({ y }) => y > best && ((best = y), true));
}

function draw() {
  const [x, y] = [columnOf[view.x], columnOf[view.y]];
  const scale = { params: 1e6, macs: 1e9 }[x.key] ?? 1;
  const points = table.rows({ search: "applied" }).data().toArray()
    .map((row) => ({ row, x: x.value(row) / scale, y: y.value(row) })).filter((p) => !isBlank(p.x) && !isBlank(p.y));
  const traces = families.map((family, i) => {
    const own = points.filter(({ row }) => row.family === family);
    const from = own.map(({ row }) => row.results[y.key][0].source);
    return { name: family, mode: "markers", x: own.map((p) => p.x), y: own.map((p) => p.y), ids: own.map((p) => p.row.id),
      customdata: own.map(({ row }, j) => [row.title, row.id, from[j]]),
      hovertemplate: "<b>%{customdata[0]}</b><br>%{x:.3~s} · %{y} %{customdata[2]}<br>%{customdata[1]}<extra></extra>",
      marker: { color: COLORS[i % COLORS.length], size: 11, symbol: from.map((s) => SYMBOLS[s]),
        line: { width: 1, color: colour("--md-default-bg-color") } } };
  }).filter((trace) => trace.x.length);
  const best = front(points, !x.isSpeed);
  const ink = colour("--md-default-fg-color--light");
  const line = { name: "Pareto front", mode: "lines", hoverinfo: "skip", showlegend: false, x: best.map((p) => p.x),
    y: best.map((p) => p.y), line: { color: ink, width: 1.5, dash: "dot" } };
  const circle = { name: "open", mode: "markers", hoverinfo: "skip", showlegend: false, x: [null], y: [null],
    marker: { size: 20, symbol: "circle-open", color: colour("--md-accent-fg-color"), line: { width: 3 } } };
  const axis = { color: ink, gridcolor: colour("--md-default-fg-color--lightest"), zeroline: false, automargin: true };
  window.Plotly.react(chart, [line, ...traces, circle], {
    height: isNarrow ? 340 : 420, margin: { l: 50, r: 10, t: 10, b: 45 }, paper_bgcolor: "transparent",
    plot_bgcolor: "transparent", font: { color: ink, family: "inherit" }, hovermode: "closest", clickmode: "event",
    legend: isNarrow ? { orientation: "h", y: -0.22 } : {}, hoverlabel: { align: "left" },
    xaxis: { ...axis, title: { text: x.title }, type: x.isSpeed ? "linear" : "log", dtick: x.isSpeed ? undefined : "D2" },
    yaxis: { ...axis, title: { text: isNarrow ? "" : y.title } },
    annotations: points.length ? [] : [{ text: "nothing here has both numbers", showarrow: false, xref: "paper",
      yref: "paper", x: 0.5, y: 0.5 }],
  }, { responsive: true, displayModeBar: false });
  ring();
}

/** Mark the point of the open row. */
function ring() {
  if (!chart.data) return;
  const at = chart.data.flatMap((trace) => (trace.ids?.includes(view.open) ?
    [[trace.x[trace.ids.indexOf(view.open)], trace.y[trace.ids.indexOf(view.open)]]] : []));
  window.Plotly.restyle(chart, { x: [[at[0]?.[0] ?? null]], y: [[at[0]?.[1] ?? null]] }, [chart.data.length - 1]);
}

// Form ------------------------------------------------------------------------------------------------------------------

const unique = (key) => [...new Set(zoo.rows.map(key))].sort();
const CHOICES = {
  task: [...TASKS.map((task) => [task, task]), ["", "all"]],
  family: families.map((name) => [name, name]),
  license: unique((row) => row.license).map((name) => [name, name]),
  weights: Object.entries(WEIGHTS),
  columns: COLUMNS.filter((column) => !column.always).map((column) => [column.key, column.title]),
};
for (const [key, choices] of Object.entries(CHOICES)) {
  const kind = key === "task" ? "radio" : "checkbox";
  form.querySelector(`[data-field=${key}]`).insertAdjacentHTML("beforeend", choices.map(([value, title]) =>
    `<label><input type="${kind}" name="${key}" value="${escape(value)}"><span>${escape(title)}</span></label>`).join(""));
}

/** Offer columns to choose from, unless they are those on offer. */
function fill(select, columns) {
  const options = columns.map(({ key, title }) => `<option value="${key}">${escape(title)}</option>`).join("");
  if (select.dataset.offers === options) return;
  select.dataset.offers = options;
  select.innerHTML = options;
}

/** Make the form, the table and the plot show the view. */
function show() {
  settle(view);
  for (const input of form.elements) {
    if (input.type === "radio") input.checked = input.value === view[input.name];
    else if (input.type === "checkbox" && input.name !== "columns") input.checked = view[input.name].includes(input.value);
    else if (["search", "number"].includes(input.type) && document.activeElement !== input) input.value = view[input.name];
  }
  for (const menu of form.querySelectorAll("details")) {
    const { field } = menu.querySelector("fieldset").dataset;
    const chosen = field ? view[field].length : LIMITS.filter((key) => view[key] !== "").length;
    menu.querySelector("output").value = chosen || "";
  }
  fill(axes.x, costs);
  fill(axes.y, metrics.filter((m) => !view.task || m.task === view.task));
  for (const name of ["x", "y"]) axes[name].value = view[name];
  showColumns();
  table.search(view.text).draw();
  const shown = table.rows({ search: "applied" });
  count.textContent = `${shown.count()} of ${zoo.rows.length} entries`;
  if (view.open && !shown.data().toArray().some((row) => row.id === view.open)) open("");
  write();
  draw();
}

form.addEventListener("input", ({ target }) => {
  if (target.type === "checkbox") {
    view[target.name] = [...form.querySelectorAll(`[name=${target.name}]:checked`)].map((box) => box.value);
  } else {
    view[target.name] = target.value;
    if (target.name === "task") view.columns = [];
  }
  show();
});
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", (event) => {
  event.preventDefault();
  document.activeElement.blur();
  open("");
  view = read("");
  sort();
  show();
});
for (const name of ["x", "y"]) axes[name].addEventListener("change", () => ((view[name] = axes[name].value), show()));
document.addEventListener("click", ({ target }) => { // a menu closes when something else is used
  for (const menu of form.querySelectorAll("details[open]")) if (!menu.contains(target)) menu.open = false;
});
form.addEventListener("keydown", ({ key, target }) => {
  const menu = target.closest("details[open]");
  if (key !== "Escape" || !menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});
new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });

function sort() {
  const [key, order] = view.sort.split(".");
  table.order(columnOf[key] ? [[COLUMNS.indexOf(columnOf[key]), order === "desc" ? "desc" : "asc"]] : []);
}

const { open: wanted } = view;
sort();
show();
chart.on("plotly_click", ({ points: [point] }) => point.customdata && open(point.customdata[1], true));
if (wanted) open(wanted, true);
root.setAttribute("aria-busy", "false");
