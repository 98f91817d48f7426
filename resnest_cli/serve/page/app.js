"use strict";

// Everything the page says. English also stands in for what another language lacks.
const TEXTS = {
  en: {
    title: "Image classification with ResNeSt",
    invitation: "Drop images here",
    hint: "Or paste an image, choose files, or take a photo. Images are sent to this server only.",
    choose: "Choose images",
    open_camera: "Use the camera",
    limit: "At most {size} MiB per image.",
    results: "Results",
    progress: "{done} of {all} done",
    clear: "Remove all",
    remove: "Remove {name}",
    retry: "Retry",
    retry_name: "Retry {name}",
    image: "Image {name}",
    no_preview: "This browser cannot show {name}",
    waiting: "Waiting …",
    working: "Classifying …",
    busy: "The server is busy; next attempt in {seconds} s",
    loading: "The server is not ready; next attempt in {seconds} s",
    none: "No prediction",
    best: "{name}: {label}, {percent}",
    failed: "{name} failed: {reason}",
    timing: "{total} ms in total",
    timing_server: "{total} ms in total: decoding {decode} ms, network {compute} ms",
    too_large: "The file has {size} MiB; this server accepts at most {most} MiB",
    folder: "This is a folder; drop the images in it instead",
    unreachable: "The server did not answer, or the file could not be read",
    refused: "The server answered with status {status}",
    unreadable: "The server's answer could not be read",
    model: "Model {name} · {classes} classes · preprocessing {preprocessing} · {engine}, {device}, {precision}",
    no_model: "The model is unknown: {reason}",
    camera: "Camera",
    shoot: "Take photo",
    close: "Close",
    photo: "photo-{number}.jpg",
    pasted: "pasted-{number}.{ending}",
    no_camera: "The camera cannot be used: {reason}",
    insecure: "browsers allow it on https or localhost only",
  },
  ko: {
    title: "ResNeSt 이미지 분류",
    invitation: "이미지를 여기에 놓으세요",
    hint: "붙여넣기, 파일 선택, 사진 촬영도 할 수 있습니다. 이미지는 이 서버로만 전송됩니다.",
    choose: "이미지 선택",
    open_camera: "카메라 사용",
    limit: "이미지당 최대 {size} MiB.",
    results: "결과",
    progress: "{all}개 중 {done}개 완료",
    clear: "모두 제거",
    remove: "{name} 제거",
    retry: "다시 시도",
    retry_name: "{name} 다시 시도",
    image: "이미지 {name}",
    no_preview: "이 브라우저에서는 {name} 미리보기를 표시할 수 없습니다",
    waiting: "대기 중 …",
    working: "분류 중 …",
    busy: "서버가 혼잡합니다. {seconds}초 후 다시 시도합니다",
    loading: "서버가 아직 준비되지 않았습니다. {seconds}초 후 다시 시도합니다",
    none: "예측 결과 없음",
    best: "{name}: {label}, {percent}",
    failed: "{name} 실패: {reason}",
    timing: "총 {total} ms",
    timing_server: "총 {total} ms: 디코딩 {decode} ms, 신경망 {compute} ms",
    too_large: "파일 크기가 {size} MiB입니다. 이 서버는 최대 {most} MiB까지 허용합니다",
    folder: "폴더입니다. 폴더 안의 이미지를 놓으세요",
    unreachable: "서버가 응답하지 않거나 파일을 읽을 수 없습니다",
    refused: "서버가 상태 코드 {status}(으)로 응답했습니다",
    unreadable: "서버의 응답을 읽을 수 없습니다",
    model: "모델 {name} · 클래스 {classes}개 · 전처리 {preprocessing} · {engine}, {device}, {precision}",
    no_model: "모델 정보를 알 수 없습니다: {reason}",
    camera: "카메라",
    shoot: "사진 찍기",
    close: "닫기",
    photo: "사진-{number}.jpg",
    pasted: "붙여넣기-{number}.{ending}",
    no_camera: "카메라를 사용할 수 없습니다: {reason}",
    insecure: "브라우저는 https 또는 localhost에서만 허용합니다",
  },
};
const CONCURRENT = 4; // requests at once: enough for the server to form batches
const MIB = 2 ** 20;
const ATTEMPTS = 8; // before a busy server counts as a failure

const language =
  navigator.languages.map((tag) => tag.split("-")[0]).find((tag) => tag in TEXTS) ?? "en";
const $ = (id) => document.getElementById(id);

function text(key, values = {}) {
  const pattern = TEXTS[language][key] ?? TEXTS.en[key];
  return pattern.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

const number = (value) => value.toLocaleString(language);
const mebibytes = (bytes) => number(Math.ceil((10 * bytes) / MIB) / 10);
const tenths = new Intl.NumberFormat(language, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const percent = (value) => (value > 0 && value < 0.001 ? "< " : "") + tenths.format(value > 0 ? Math.max(value, 0.001) : 0);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function announce(message) {
  $("log").append(element("p", {}, message));
  while ($("log").childElementCount > 20) $("log").firstChild.remove();
}

// ---- requests ----

class Failure extends Error { // its message is shown
  constructor(message, again = true) {
    super(message);
    this.again = again; // whether a further attempt may succeed
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)));
  });
}

async function reason(response) {
  try {
    const problem = await response.json();
    return problem.detail || problem.title;
  } catch {
    return text("refused", { status: response.status });
  }
}

// A response with status 200; waits while the server is busy or loading.
async function request(path, options, report) {
  const url = new URL(path, location.href);
  url.username = url.password = ""; // with which fetch refuses an address
  for (let attempt = 1; ; attempt++) {
    let response;
    try {
      response = await fetch(url, options);
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Failure(text("unreachable"));
    }
    if (response.ok) return response;
    const { status } = response;
    const stated = parseInt(response.headers.get("Retry-After"), 10);
    const busy = status === 429 || (status === 503 && stated);
    if (!busy || attempt === ATTEMPTS) throw new Failure(await reason(response), status >= 500 || status === 429);
    for (let seconds = Math.max(stated || 1, 1); seconds > 0; seconds--) {
      report(text(status === 429 ? "busy" : "loading", { seconds }));
      await pause(1, options.signal);
    }
    await pause(Math.random() / 4, options.signal); // not all at the same moment
  }
}

async function answer(response) {
  try {
    return await response.json();
  } catch {
    throw new Failure(text("unreadable"));
  }
}

// ---- cards: one per image ----

let model = null;
let running = 0;
const cards = new Set();
const queue = [];

class Card {
  constructor(file, problem) {
    this.file = file;
    this.problem = problem;
    this.state = element("p", { className: "state" });
    const id = `name-${(Card.made = (Card.made ?? 0) + 1)}`;
    const remove = element("button", { className: "remove", type: "button", ariaLabel: text("remove", file) }, "✕");
    remove.onclick = () => this.remove();
    const title = element("div", { className: "title" }, element("h3", { id, dir: "auto" }, file.name), remove);
    this.article = element("article", {}, title, this.thumbnail(), this.state);
    this.article.setAttribute("aria-labelledby", id);
    this.item = element("li", {}, this.article);
    cards.add(this);
  }

  thumbnail() {
    if (this.problem) return "";
    this.url = URL.createObjectURL(this.file);
    const image = element("img", { className: "thumbnail", decoding: "async", draggable: false, src: this.url });
    image.alt = text("image", this.file);
    image.onerror = () => image.replaceWith(element("p", { className: "small" }, text("no_preview", this.file)));
    return image;
  }

  start() {
    this.done = false;
    this.article.className = "";
    this.article.ariaBusy = "true";
    this.abort = new AbortController();
    this.say(text("waiting"));
    if (this.problem) return this.fail(this.problem);
    queue.push(this);
  }

  say(message, ...more) {
    this.state.replaceChildren(message, ...more);
  }

  async classify() {
    this.say(text("working"));
    const body = new FormData();
    body.append("images", this.file, this.file.name);
    const options = { method: "POST", body, signal: this.abort.signal };
    try {
      let sent = performance.now();
      const response = await request("v1/predict", options, (message) => {
        this.say(message);
        sent = performance.now(); // time spent waiting is not the answer's
      });
      const [row] = await answer(response);
      const total = performance.now() - sent;
      if (!row) throw new Failure(text("unreadable"));
      if (row.error) throw new Failure(row.error, false);
      this.show(row.predictions, timing(response, total));
    } catch (error) {
      if (this.abort.signal.aborted) return;
      if (!(error instanceof Failure)) console.error(error);
      this.fail(error instanceof Failure ? error.message : text("unreadable"), error.again);
    }
  }

  finish() {
    this.done = true;
    this.article.ariaBusy = null;
    update();
  }

  show(predictions, timed) {
    const rows = predictions.slice(0, 5).map((one) => {
      const fill = element("span", { className: "fill" });
      fill.style.width = `${100 * one.probability}%`;
      const label = element("span", { dir: "auto", title: one.wnid ?? "" }, one.label);
      if (one.wnid) label.lang = "en"; // ImageNet's labels; others may be of any language
      return element("li", {}, fill, element("span", { className: "words" }, label, element("span", {}, percent(one.probability))));
    });
    this.state.replaceWith(
      rows.length ? element("ol", { className: "predictions" }, ...rows) : element("p", {}, text("none")),
      element("p", { className: "timing" }, timed),
    );
    const best = predictions[0] ?? { label: text("none"), probability: 0 };
    announce(text("best", { name: this.file.name, label: best.label, percent: percent(best.probability) }));
    this.finish();
  }

  fail(message, again = false) {
    this.article.className = "failed";
    this.say(message);
    if (again) {
      const retry = element("button", { type: "button", ariaLabel: text("retry_name", this.file) }, text("retry"));
      retry.onclick = () => {
        this.article.querySelector(".remove").focus(); // the button itself disappears
        this.start();
        advance();
      };
      this.say(message, " ", element("span", { className: "buttons" }, retry));
    }
    announce(text("failed", { name: this.file.name, reason: message }));
    this.finish();
  }

  remove(focus = true) {
    const next = this.item.nextElementSibling ?? this.item.previousElementSibling;
    this.abort?.abort();
    URL.revokeObjectURL(this.url);
    cards.delete(this);
    if (queue.includes(this)) queue.splice(queue.indexOf(this), 1);
    this.item.remove();
    if (focus) (next?.querySelector(".remove") ?? $("choose")).focus();
    update();
  }
}

function timing(response, total) {
  const parts = {};
  for (const [, name, duration] of (response.headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g))
    parts[name] = number(Math.round(duration));
  const known = parts.decode && parts.compute;
  return text(known ? "timing_server" : "timing", { ...parts, total: number(Math.round(total)) });
}

function update() {
  const done = [...cards].filter((card) => card.done).length;
  $("results-section").hidden = !cards.size;
  $("progress").textContent = text("progress", { done: number(done), all: number(cards.size) });
}

function advance() {
  while (running < CONCURRENT && queue.length) {
    running++;
    queue.shift().classify().finally(() => {
      running--;
      advance();
    });
  }
}

function problem(file) {
  const most = model?.max_upload_mb;
  if (!most || file.size <= most * MIB - 1024) return null; // the form itself takes a little
  return text("too_large", { size: mebibytes(file.size), most: number(most) });
}

// The newest images come first, in the order they were given.
function add(files, folders = []) {
  const made = [
    ...folders.map((folder) => new Card(folder, text("folder"))),
    ...files.map((file) => new Card(file, problem(file))),
  ];
  $("results").prepend(...made.map((card) => card.item));
  for (const card of made) card.start();
  update();
  advance();
}

// ---- where images come from ----

function listen() {
  $("choose").onclick = () => $("files").click();
  $("files").onchange = () => {
    add([...$("files").files]);
    $("files").value = ""; // the same file may be chosen again
  };
  $("clear").onclick = () => {
    for (const card of [...cards]) card.remove(false);
    $("choose").focus();
  };
  addEventListener("dragover", (event) => {
    event.preventDefault();
    $("zone").classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || $("zone").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("zone").classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.());
    const folders = entries.filter((entry) => entry?.isDirectory);
    const names = new Set(folders.map((entry) => entry.name));
    add([...event.dataTransfer.files].filter((file) => !names.has(file.name)), folders);
  });
  let pasted = 0;
  addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    add(files.map((file) => {
      if (file.name !== "image.png") return file; // the name that browsers give to all
      return new File([file], text("pasted", { number: ++pasted, ending: "png" }), { type: file.type });
    }));
  });
}

function useCamera() {
  let stream = null;
  let photos = 0;
  const stop = () => {
    stream?.getTracks().forEach((track) => track.stop());
    stream = $("video").srcObject = null;
    $("shoot").disabled = true;
  };
  const complain = (reason) => ($("camera-problem").textContent = text("no_camera", { reason }));
  $("open-camera").onclick = async () => {
    $("camera-problem").textContent = "";
    $("camera").showModal();
    if (!navigator.mediaDevices) return complain(text("insecure"));
    try {
      const video = { facingMode: "environment", width: { ideal: 1280 } };
      stream = await navigator.mediaDevices.getUserMedia({ video });
    } catch (error) {
      return complain(error.message);
    }
    if (!$("camera").open) return stop(); // closed before the browser's question was answered
    $("video").srcObject = stream;
  };
  $("video").onloadeddata = () => ($("shoot").disabled = false);
  $("camera").onclose = stop;
  $("close-camera").onclick = () => $("camera").close();
  $("shoot").onclick = () => {
    const { videoWidth: width, videoHeight: height } = $("video");
    const canvas = element("canvas", { width, height });
    canvas.getContext("2d").drawImage($("video"), 0, 0);
    const name = text("photo", { number: ++photos });
    canvas.toBlob((blob) => add([new File([blob], name, { type: blob.type })]), "image/jpeg", 0.95);
    $("camera").close();
  };
}

async function showModel() {
  const say = (message) => ($("model").textContent = message);
  try {
    for (;;) {
      const { models } = await answer(await request("v1/models", {}, say));
      if ((model = models[0])) break;
      say(text("loading", { seconds: 1 }));
      await pause(1);
    }
    say(text("model", { ...model, classes: number(model.classes) }));
    if (model.max_upload_mb) $("limit").textContent = text("limit", { size: number(model.max_upload_mb) });
  } catch (error) {
    say(text("no_model", { reason: error.message }));
  }
}

document.documentElement.lang = language;
document.title = text("title");
for (const one of document.querySelectorAll("[data-text]")) one.textContent = text(one.dataset.text);
listen();
useCamera();
showModel();
