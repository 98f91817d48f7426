"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const size = data.paths.length;
  const first = data.ranks[0] || { label: [], p: [] };
  const WIDTH = 140, HEIGHT = 184, BINS = 20;
  const FIELDS = ["search", "class", "show", "from", "to", "sort"];
  const EMPTY = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==";
  // what would change the order of letters, or is no text, is shown as an escape
  const ODD = /[\p{Cc}\p{Zl}\p{Zp}\p{Surrogate}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;

  const hex = (c) => "\\u" + c.codePointAt(0).toString(16).padStart(4, "0");
  const shown = (text) => text.replace(ODD, hex);
  const label = (row) => (has(row) ? data.labels[first.label[row]] : "");
  const has = (row) => first.p[row] != null;
  const failed = (row) => data.error[row] >= 0;
  const reason = (row) => data.errors[data.error[row]];
  const percent = (p) => (100 * p).toFixed(1) + " %";
  const number = (n) => n.toLocaleString("en");
  const images = (n) => number(n) + (n === 1 ? " image" : " images");
  const margin = (row) => first.p[row] - ((data.ranks[1] && data.ranks[1].p[row]) || 0);
  const element = (tag, name) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    return made;
  };
  // a new text in the old node: scrolling makes no garbage
  const put = (holder, text) => {
    if (holder.firstChild) holder.firstChild.data = text;
    else holder.append(text);
  };

  // thumbnails: chunks of lines that nothing parses until they are looked at
  const chunks = new Map();
  const thumbnail = (row) => {
    const at = Math.floor(row / data.chunk);
    if (!chunks.has(at)) {
      const inert = $("thumbs-" + at);
      if (chunks.size >= 8) chunks.delete(chunks.keys().next().value);
      chunks.set(at, inert ? inert.textContent.trim().split(",") : []);
    }
    const text = chunks.get(at)[row % data.chunk];
    return text ? "data:image/webp;base64," + text : "";
  };

  let order = [], columns = 1, active = 0, anchor = 0;
  const selected = new Set();
  const lower = data.paths.map((path, row) => (path + "\n" + label(row)).toLowerCase());
  const counts = new Map();
  for (let row = 0; row < size; row++) {
    if (has(row)) counts.set(label(row), (counts.get(label(row)) || 0) + 1);
  }
  const classes = [...counts].sort((a, b) => b[1] - a[1]);

  const state = () => Object.fromEntries(FIELDS.map((id) => [id, $(id).value]));
  const within = (row, from, to) => {
    const p = first.p[row];
    return p != null && p >= from && (p < to || (p <= to && to >= 1));
  };
  const chosen = (now) => {
    const words = now.search.toLowerCase(), wanted = now.class.toLowerCase();
    const exact = wanted && classes.some(([name]) => name.toLowerCase() === wanted);
    const found = [];
    for (let row = 0; row < size; row++) {
      if (words && !lower[row].includes(words)) continue;
      if (wanted) {
        const name = label(row).toLowerCase();
        if (exact ? name !== wanted : !name.includes(wanted)) continue;
      }
      if (now.show === "failed" && !failed(row)) continue;
      if (now.show === "classified" && !has(row)) continue;
      if (now.show === "none" && (has(row) || failed(row))) continue;
      found.push(row);
    }
    return found;
  };
  const last = (value) => (value == null ? 2 : value);
  const text = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const SORTS = {
    high: (a, b) => (has(b) ? first.p[b] : -1) - (has(a) ? first.p[a] : -1),
    low: (a, b) => last(first.p[a]) - last(first.p[b]),
    margin: (a, b) => (has(a) ? margin(a) : 2) - (has(b) ? margin(b) : 2),
    class: (a, b) => has(b) - has(a) || text(label(a), label(b)),
    path: (a, b) => text(data.paths[a], data.paths[b]),
  };

  const apply = () => {
    const now = state(), before = chosen(now);
    histogram(before, now);
    const from = now.from === "" ? 0 : +now.from, to = now.to === "" ? 1 : +now.to;
    const bounded = now.from !== "" || now.to !== "";
    order = bounded ? before.filter((row) => within(row, from, to)) : before;
    if (SORTS[now.sort]) order.sort((a, b) => SORTS[now.sort](a, b) || a - b);
    active = anchor = 0;
    $("gallery").scrollTop = 0;
    $("export").disabled = size === 0;
    layout();
    tell();
    const kept = new URLSearchParams(FIELDS.filter((id) => now[id]).map((id) => [id, now[id]]));
    history.replaceState(null, "", kept.size ? "#" + kept : location.href.split("#")[0]);
  };
  const tell = () => {
    const marked = selected.size ? `, ${number(selected.size)} selected` : "";
    $("count").textContent = `${number(order.length)} of ${images(size)} shown${marked}`;
    $("export").textContent = selected.size
      ? `Export ${number(selected.size)} selected as CSV` : "Export the shown as CSV";
  };
  const restore = () => {
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const id of FIELDS) $(id).value = kept.get(id) || "";
    apply();
  };

  const bars = Array.from({ length: BINS }, (_, at) => {
    const button = element("button");
    button.type = "button";
    button.append(element("span"));
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") === "true";
      $("from").value = on ? "" : at / BINS;
      $("to").value = on ? "" : (at + 1) / BINS;
      apply();
    });
    $("histogram").append(button);
    return button;
  });
  const histogram = (rows, now) => {
    const bins = new Array(BINS).fill(0);
    for (const row of rows) {
      if (has(row)) bins[Math.min(BINS - 1, Math.floor(first.p[row] * BINS + 1e-9))]++;
    }
    const most = Math.max(1, ...bins);
    bars.forEach((button, at) => {
      const from = at / BINS, to = (at + 1) / BINS;
      const says = `${from.toFixed(2)} to ${to.toFixed(2)}: ${images(bins[at])}`;
      button.setAttribute("aria-label", says);
      button.title = says;
      button.setAttribute("aria-pressed", now.from === String(from) && now.to === String(to));
      button.firstChild.style.height = bins[at] ? `${Math.max(4, 100 * bins[at] / most)}%` : "0";
    });
  };

  // the gallery: as many tiles as are seen, used again and again
  const pool = [];
  const tile = () => {
    const made = element("div", "tile");
    made.setAttribute("role", "option");
    made.id = "tile-" + pool.length;
    const image = element("img");
    image.alt = "";
    const name = element("bdi", "name");
    name.dir = "auto";
    const parts = { made, image, why: element("div", "reason"), label: element("bdi", "label"),
      p: element("div", "name"), name, row: -1, at: -1 };
    made.append(image, parts.why, parts.label, parts.p, name);
    made.addEventListener("click", (event) => {
      move(parts.at, event.shiftKey);
      if (event.ctrlKey || event.metaKey) toggle(parts.row);
      else if (!event.shiftKey) open(parts.at);
    });
    $("space").append(made);
    return parts;
  };
  const fill = (parts, at) => {
    const row = order[at];
    parts.at = at;
    const top = Math.floor(at / columns) * HEIGHT + 4, left = (at % columns) * WIDTH + 4;
    parts.made.style.transform = `translate(${left}px, ${top}px)`;
    parts.made.hidden = false;
    parts.made.setAttribute("aria-posinset", at + 1);
    parts.made.setAttribute("aria-setsize", order.length);
    mark(parts);
    if (parts.row === row) return;
    parts.row = row;
    const picture = thumbnail(row) || (failed(row) ? "" : data.urls[row]);
    parts.image.src = picture || EMPTY;
    parts.image.hidden = failed(row) && !thumbnail(row);
    parts.why.hidden = !parts.image.hidden;
    put(parts.why, failed(row) ? shown(reason(row)) : "");
    parts.made.classList.toggle("failed", failed(row));
    put(parts.label, failed(row) ? "failed" : has(row) ? shown(label(row)) : "no class");
    put(parts.p, has(row) ? percent(first.p[row]) : "");
    put(parts.name, shown(data.paths[row].split("/").pop()));
    parts.made.title = shown(data.paths[row]) + (failed(row) ? "\n" + shown(reason(row)) : "");
  };
  const mark = (parts) => {
    parts.made.setAttribute("aria-selected", selected.has(order[parts.at]));
    parts.made.classList.toggle("active", parts.at === active);
    if (parts.at === active) $("gallery").setAttribute("aria-activedescendant", parts.made.id);
  };
  const draw = () => {
    const seen = $("gallery");
    const from = Math.max(0, Math.floor(seen.scrollTop / HEIGHT) - 1) * columns;
    const lines = Math.ceil(seen.clientHeight / HEIGHT) + 3;
    const to = Math.min(order.length, from + lines * columns);
    while (pool.length < to - from) pool.push(tile());
    // a tile keeps its image while it stays in view
    const free = pool.filter((parts) => parts.at < from || parts.at >= to || parts.made.hidden);
    const kept = new Map();
    for (const parts of pool) {
      if (!free.includes(parts)) {
        if (kept.has(parts.at)) free.push(parts);
        else kept.set(parts.at, parts);
      }
    }
    seen.removeAttribute("aria-activedescendant");
    for (let at = from; at < to; at++) fill(kept.get(at) || free.shift(), at);
    for (const parts of free) parts.made.hidden = true;
  };
  const layout = () => {
    columns = Math.max(1, Math.floor(($("gallery").clientWidth - 4) / WIDTH));
    $("space").style.height = Math.ceil(order.length / columns) * HEIGHT + 8 + "px";
    draw();
  };
  let waiting = false;
  $("gallery").addEventListener("scroll", () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; draw(); });
    waiting = true;
  });
  new ResizeObserver(() => requestAnimationFrame(layout)).observe($("gallery"));

  const move = (at, extend) => {
    if (!order.length) return;
    active = Math.max(0, Math.min(order.length - 1, at));
    if (extend) {
      for (let i = Math.min(anchor, active); i <= Math.max(anchor, active); i++) {
        selected.add(order[i]);
      }
    } else anchor = active;
    const seen = $("gallery"), top = Math.floor(active / columns) * HEIGHT;
    if (top < seen.scrollTop) seen.scrollTop = top;
    const low = top + HEIGHT + 8 - seen.clientHeight;
    if (low > seen.scrollTop) seen.scrollTop = low;
    draw();
    tell();
  };
  const toggle = (row) => {
    if (!selected.delete(row)) selected.add(row);
    draw();
    tell();
  };
  const open = (at) => {
    if (!(at in order)) return;
    const row = order[at], url = data.urls[row];
    $("detail-name").textContent = shown(data.paths[row]);
    $("detail-image").hidden = !url && !thumbnail(row);
    $("detail-image").src = url || thumbnail(row) || EMPTY;
    $("detail-image").onerror = () => {
      $("detail-image").onerror = null;
      $("detail-image").src = thumbnail(row) || EMPTY;
    };
    $("detail-error").textContent = failed(row) ? shown(reason(row)) : "";
    const body = $("detail-table").tBodies[0];
    body.replaceChildren();
    for (const rank of data.ranks) {
      if (rank.p[row] == null) continue;
      const line = body.insertRow();
      line.insertCell().textContent = shown(data.labels[rank.label[row]]);
      line.insertCell().textContent = percent(rank.p[row]);
    }
    $("detail-table").hidden = !body.rows.length;
    $("detail-link").hidden = !url;
    if (url) $("detail-link").href = url;
    else $("detail-link").removeAttribute("href");
    if (!$("detail").open) $("detail").showModal();
  };

  const keys = {
    ArrowRight: () => active + 1, ArrowLeft: () => active - 1,
    ArrowDown: () => active + columns, ArrowUp: () => active - columns,
    Home: () => 0, End: () => order.length - 1,
    PageDown: () => active + columns * Math.max(1, Math.floor($("gallery").clientHeight / HEIGHT)),
    PageUp: () => active - columns * Math.max(1, Math.floor($("gallery").clientHeight / HEIGHT)),
  };
  $("gallery").addEventListener("keydown", (event) => {
    if (keys[event.key] && !event.ctrlKey && !event.altKey) move(keys[event.key](), event.shiftKey);
    else if (event.key === " " && order.length) toggle(order[active]);
    else if (event.key === "Enter") open(active);
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) $("all").click();
    else return;
    event.preventDefault();
  });
  $("detail").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) { move(active + step); open(active); }
  });
  $("detail").addEventListener("close", () => $("gallery").focus());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || /INPUT|SELECT/.test(event.target.tagName)) return;
    event.preventDefault();
    $("search").focus();
  });

  $("filters").addEventListener("input", () => {
    const wanted = $("class").value.toLowerCase();
    suggest(classes.filter(([name]) => name.toLowerCase().includes(wanted)));
    apply();
  });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", (event) => {
    event.preventDefault();
    for (const id of FIELDS) $(id).value = "";
    apply();
  });
  const suggest = (found) => $("classes").replaceChildren(...found.slice(0, 30).map(([name, n]) => {
    const option = element("option");
    option.value = name;
    option.label = `${shown(name)} (${number(n)})`;
    return option;
  }));
  addEventListener("hashchange", restore);

  $("all").addEventListener("click", () => {
    for (const row of order) selected.add(row);
    draw();
    tell();
  });
  $("nothing").addEventListener("click", () => { selected.clear(); draw(); tell(); });
  const cell = (value) => {
    const written = String(value ?? "").replace(/\p{Surrogate}/gu, hex);
    return /[",\r\n]/.test(written) ? '"' + written.replaceAll('"', '""') + '"' : written;
  };
  $("export").addEventListener("click", () => {
    const rows = selected.size ? [...selected].sort((a, b) => a - b) : order;
    const lines = rows.map((row) => [data.paths[row], label(row), first.p[row],
      failed(row) ? reason(row) : ""].map(cell).join(","));
    const link = element("a");
    const file = new Blob(["path,label,probability,error\n", lines.map((l) => l + "\n").join("")],
      { type: "text/csv" });
    link.href = URL.createObjectURL(file);
    link.download = "selection.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });

  const bad = data.error.filter((at) => at >= 0).length;
  $("summary").textContent = `${images(size)}, ${number(classes.length)} `
    + `${classes.length === 1 ? "class" : "classes"}, ${number(bad)} failed`;
  $("state").textContent = data.state;
  $("run").textContent = data.run || "The results have no record (.run.json) beside them.";
  suggest(classes);
  restore();
})();
