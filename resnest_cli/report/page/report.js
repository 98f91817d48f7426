"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const size = data.paths.length;
  const first = data.ranks[0] || { label: [], p: [] };
  const WIDTH = 140, HEIGHT = 190, BINS = 20;
  const FIELDS = ["search", "class", "show", "true", "from", "to", "margin", "sort", "maps"];
  const EMPTY = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==";
  // what would change the order of letters, or is no text, is shown as an escape
  const ODD = /[\p{Cc}\p{Zl}\p{Zp}\p{Surrogate}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;

  const hex = (c) => "\\u" + c.codePointAt(0).toString(16).padStart(4, "0");
  const shown = (text) => text.replace(ODD, hex);
  const label = (row) => (has(row) ? data.labels[first.label[row]] : "");
  const has = (row) => first.p[row] != null;
  const failed = (row) => data.error[row] >= 0;
  const bare = new Set(data.bare);
  const reason = (row) => (failed(row) ? data.errors[data.error[row]]
    : /^https?:/i.test(data.paths[row]) ? "not downloaded: a URL"
    : data.urls[row] ? "cannot be read any more" : "not there when this page was made");
  const truth = (row) => (data.true && data.true[row] >= 0 ? data.labels[data.true[row]] : "");
  const right = (row) => has(row) && data.true[row] === first.label[row];
  const maps = () => $("maps").checked;
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
  const keep = (name, text) => {
    if (chunks.size >= 12) chunks.delete(chunks.keys().next().value);
    chunks.set(name, text.trim().split(","));
  };
  const load = (name, at) => {
    const inert = $(name);
    if (inert) return keep(name, inert.textContent);
    chunks.set(name, []); // until its side file is there
    if (at < data.side.first) return;
    const script = element("script"), [kind, number] = name.split("-");
    script.src = encodeURI(data.side.folder).replace(/[?#]/g, encodeURIComponent)
      + `/${kind}-${data.side.token}-${number}.js`;
    script.onload = script.onerror = () => script.remove();
    document.head.append(script);
  };
  window.thumbnails = (name, text) => {
    keep(name, text);
    for (const parts of pool) parts.row = -1;
    draw();
  };
  const stored = (kind, row) => {
    const at = Math.floor(row / data.chunk), name = kind + "-" + at;
    if (!chunks.has(name)) load(name, at);
    const text = chunks.get(name)[row % data.chunk];
    return text ? "data:image/webp;base64," + text : "";
  };
  const thumbnail = (row) =>
    (maps() && data.mapUrls && data.mapUrls[row] && stored("maps", row)) || stored("thumbs", row);

  let order = [], columns = 1, active = 0, anchor = 0;
  const selected = new Set();
  const lower = data.paths.map((path, row) =>
    (path + "\n" + label(row) + "\n" + truth(row)).toLowerCase());
  const counted = (name) => {
    const counts = new Map();
    for (let row = 0; row < size; row++) {
      if (name(row)) counts.set(name(row), (counts.get(name(row)) || 0) + 1);
    }
    return [...counts].sort((a, b) => b[1] - a[1]);
  };
  const classes = counted(label), trueClasses = counted(truth);

  const state = () => Object.fromEntries(FIELDS.map((id) =>
    [id, id === "maps" ? (maps() ? "on" : "") : $(id).value]));
  const within = (row, from, to) => {
    const p = first.p[row];
    return p != null && p >= from && (p < to || (p <= to && to >= 1));
  };
  const chosen = (now) => {
    const words = now.search.toLowerCase();
    const named = (text, all) => {
      const wanted = text.toLowerCase();
      const exact = all.some(([name]) => name.toLowerCase() === wanted);
      return (name) => (exact ? name.toLowerCase() === wanted : name.toLowerCase().includes(wanted));
    };
    const isClass = named(now.class, classes), isTrue = named(now.true, trueClasses);
    const most = now.margin === "" ? 2 : +now.margin;
    const found = [];
    for (let row = 0; row < size; row++) {
      if (words && !lower[row].includes(words)) continue;
      if (now.class && !isClass(label(row))) continue;
      if (now.true && !isTrue(truth(row))) continue;
      if (most < 2 && !(has(row) && margin(row) <= most)) continue;
      if (now.show === "failed" && !failed(row)) continue;
      if (now.show === "classified" && !has(row)) continue;
      if (now.show === "none" && (has(row) || failed(row))) continue;
      if (now.show === "missing" && !bare.has(row)) continue;
      if (now.show === "right" && !(truth(row) && right(row))) continue;
      if (now.show === "wrong" && !(truth(row) && !right(row))) continue;
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
    remember(now);
  };
  const remember = (now) => {
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
    $("maps").checked = kept.has("maps") && Boolean(data.mapUrls);
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
      p: element("div", "name"), truth: element("bdi", "truth"), name, row: -1, at: -1 };
    made.append(image, parts.why, parts.label, parts.p, parts.truth, name);
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
    const without = failed(row) || bare.has(row);
    parts.image.src = (without ? "" : thumbnail(row)) || EMPTY;
    parts.image.hidden = without;
    parts.why.hidden = !without;
    put(parts.why, without ? shown(reason(row)) : "");
    parts.made.classList.toggle("failed", failed(row));
    parts.made.classList.toggle("wrong", Boolean(truth(row)) && !right(row));
    put(parts.truth, truth(row) && !right(row) ? "is " + shown(truth(row)) : "");
    put(parts.label, failed(row) ? "failed" : has(row) ? shown(label(row)) : "no class");
    put(parts.p, has(row) ? percent(first.p[row]) : "");
    put(parts.name, shown(data.paths[row].split("/").pop()));
    parts.made.title = shown(data.paths[row]) + (without ? "\n" + shown(reason(row)) : "");
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
    const drawing = maps() && data.mapUrls && data.mapUrls[row];
    const small = failed(row) || bare.has(row) ? "" : thumbnail(row);
    $("detail-image").hidden = failed(row) && !url;
    $("detail-image").src = drawing || url || small || EMPTY;
    $("detail-map").hidden = !(data.mapUrls && data.mapUrls[row]);
    $("detail-map").textContent = drawing ? `Map of ${shown(data.mapNames[row])}` : "Map";
    $("detail-map").setAttribute("aria-pressed", Boolean(drawing));
    $("detail-true").textContent = truth(row) ? `True class: ${shown(truth(row))}` : "";
    $("detail-image").onerror = () => {
      $("detail-image").onerror = null;
      $("detail-image").src = small || EMPTY;
    };
    $("detail-error").textContent = failed(row) || bare.has(row) ? shown(reason(row)) : "";
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
  const remap = () => {
    if (!data.mapUrls) return;
    $("maps").checked = !maps();
    $("maps").dispatchEvent(new Event("input", { bubbles: true }));
    if ($("detail").open) open(active);
  };
  document.addEventListener("keydown", (event) => {
    const typing = /INPUT|SELECT/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (event.key === "m" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) remap();
  });
  $("detail-map").addEventListener("click", remap);

  $("filters").addEventListener("input", (event) => {
    if (event.target.id === "maps") { // the place in the gallery stays
      for (const parts of pool) parts.row = -1;
      draw();
      remember(state());
      return;
    }
    suggest("class", "classes", classes);
    suggest("true", "true-classes", trueClasses);
    apply();
  });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", (event) => {
    event.preventDefault();
    for (const id of FIELDS) if (id !== "maps") $(id).value = "";
    apply();
  });
  const suggest = (input, list, all) => {
    const wanted = $(input).value.toLowerCase();
    const found = all.filter(([name]) => name.toLowerCase().includes(wanted)).slice(0, 30);
    $(list).replaceChildren(...found.map(([name, n]) => {
      const option = element("option");
      option.value = name;
      option.label = `${shown(name)} (${number(n)})`;
      return option;
    }));
  };
  addEventListener("hashchange", restore);

  $("all").addEventListener("click", () => {
    for (const row of order) selected.add(row);
    draw();
    tell();
  });
  $("nothing").addEventListener("click", () => { selected.clear(); draw(); tell(); });
  const cell = (value) => {
    let written = String(value ?? "").replace(/\p{Surrogate}/gu, hex);
    if (/^'*[=+@\t\r-]/.test(written)) written = "'" + written; // or a spreadsheet executes it
    return /[",\r\n]/.test(written) ? '"' + written.replaceAll('"', '""') + '"' : written;
  };
  $("export").addEventListener("click", () => {
    const rows = selected.size ? [...selected].sort((a, b) => a - b) : order;
    const columns = ["path", "label", "probability", "error"].concat(data.true ? "true" : []);
    const lines = rows.map((row) => [data.paths[row], label(row), first.p[row],
      failed(row) ? reason(row) : "", truth(row)].slice(0, columns.length).map(cell).join(","));
    const link = element("a");
    const file = new Blob([[columns.join(","), ...lines].map((line) => line + "\r\n").join("")],
      { type: "text/csv" });
    link.href = URL.createObjectURL(file);
    link.download = "selection.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });

  // the confusion: the classes with most errors, whose cells open their images
  const confuse = () => {
    if (!data.true) return;
    const pairs = new Map(), found = new Set();
    let known = 0, good = 0;
    for (let row = 0; row < size; row++) {
      const is = data.true[row], said = has(row) ? first.label[row] : -1;
      if (is < 0) continue;
      known++;
      good += is === said;
      pairs.set(is + " " + said, (pairs.get(is + " " + said) || 0) + 1);
    }
    const both = [...pairs].map(([pair, n]) => [...pair.split(" ").map(Number), n])
      .sort((a, b) => (a[0] === a[1]) - (b[0] === b[1]) || b[2] - a[2]);
    for (const [is, said] of both) found.add(is).add(said);
    found.delete(-1);
    const used = [...found].slice(0, 20), left = found.size - used.length;
    const trues = used.filter((is) => used.some((said) => pairs.has(is + " " + said)));
    const predicted = used.filter((said) => used.some((is) => pairs.has(is + " " + said)));
    $("accuracy").textContent = `Confusion: ${number(good)} of ${images(known)} with a true class `
      + `right (${percent(known ? good / known : 0)})`
      + (left ? `; the ${used.length} most confused classes` : "");
    const table = element("table"), head = table.createTHead().insertRow();
    const heading = (line, text, scope) => {
      const made = element("th");
      made.scope = scope;
      made.textContent = made.title = text;
      line.append(made);
    };
    heading(head, "true \\ predicted", "col");
    for (const said of predicted) heading(head, shown(data.labels[said]), "col");
    const body = table.createTBody();
    for (const is of trues) {
      const line = body.insertRow();
      heading(line, shown(data.labels[is]), "row");
      for (const said of predicted) {
        const n = pairs.get(is + " " + said), place = line.insertCell();
        if (!n) continue;
        const button = element("button", is === said ? "right" : "wrong");
        button.type = "button";
        button.textContent = number(n);
        button.title = `${shown(data.labels[is])} as ${shown(data.labels[said])}`;
        button.setAttribute("aria-label", `${button.title}: ${images(n)}`);
        button.addEventListener("click", () => {
          for (const id of FIELDS) if (id !== "maps" && id !== "sort") $(id).value = "";
          $("true").value = data.labels[is];
          $("class").value = data.labels[said];
          apply();
        });
        place.append(button);
      }
    }
    $("confusion").append(table);
  };

  // paper: tiles stand in the text, as many as a printer can take
  addEventListener("beforeprint", () => {
    const most = Math.min(order.length, 500);
    while (pool.length < most) pool.push(tile());
    for (let at = 0; at < most; at++) fill(pool[at], at);
    for (const parts of pool.slice(most)) parts.made.hidden = true;
    $("print-note").textContent = most < order.length
      ? `The first ${number(most)} of ${images(order.length)}.` : "";
  });
  addEventListener("afterprint", () => {
    for (const parts of pool.splice(200)) parts.made.remove();
    draw();
  });

  const bad = data.error.filter((at) => at >= 0).length;
  $("summary").textContent = `${images(size)}, ${number(classes.length)} `
    + `${classes.length === 1 ? "class" : "classes"}, ${number(bad)} failed`;
  $("state").textContent = data.state;
  $("run").textContent = data.run || "The results have no record (.run.json) beside them.";
  suggest("class", "classes", classes);
  suggest("true", "true-classes", trueClasses);
  confuse();
  for (const id of ["maps-label", "map-key"]) $(id).hidden = !data.mapUrls;
  for (const id of ["true-label", "truth"]) $(id).hidden = !data.true;
  for (const option of [...$("show").options]) {
    if (!data.true && /wrong|right/.test(option.value)) option.remove();
  }
  restore();
})();
