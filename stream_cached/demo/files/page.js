"use strict";

// A browser opens six connections to a server; the counters need one of them.
const MOST_READING = 4;
const MOST_SHOWN = 8;

const ABOUT = {
  none: "Each viewer runs the endpoint again, and waits four seconds for the last row.",
  naive:
    "A cache as it is often written: it collects the rows while they are sent, and keeps what it " +
    "has when the response ends. If the first viewer leaves half-way, it keeps half a body.",
  stream_cached:
    "One run for all. Who comes in the middle has the rows so far at once, then the others as " +
    "they are made. Only a whole body is kept, also if the first viewer leaves.",
};

// What a viewer is shown of how it was answered: a word, and a sentence.
const HOW = {
  ran: ["▶ no cache", "Reads a run of its own."],
  miss: ["▶ miss", "Reads the run that it has begun."],
  joined: ["⇉ joined", "Reads the run of another viewer."],
  hit: ["✓ hit", "Reads from the cache."],
};

const byId = (id) => document.getElementById(id);
const shown = (number) => number.toLocaleString("en");
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

let viewers = [];
let made = 0;
let scene = 0; // Which scene is played: one that is not the last gives up.
let full = { rows: 40, bytes: 0, seconds: 4 };
let known; // A promise: the server has said how long a whole body is.

const mode = () => document.querySelector("input[name=mode]:checked").value;
const say = (text) => (byId("news").textContent = text);

function how(response) {
  const parts = (response.headers.get("Cache-Status") ?? "").split(";").map((part) => part.trim());
  if (parts[0] === "") return "ran";
  if (parts.includes("hit")) return "hit";
  return parts.includes("collapsed") ? "joined" : "miss";
}

class Viewer {
  constructor(name) {
    this.name = name;
    this.rows = this.bytes = 0;
    this.reads = true;
    this.abort = new AbortController();
    this.half = new Promise((done) => (this.isHalf = done));
    this.node = byId("viewer").content.firstElementChild.cloneNode(true);
    this.part("h3").textContent = name;
    this.button = this.part("button");
    this.button.setAttribute("aria-label", `${name} leaves`);
    this.button.addEventListener("click", () => this.leave());
    const last = Math.ceil(full.seconds + 0.5);
    this.seconds = last;
    for (let second = 0; second <= last; second++) {
      const tick = document.createElement("span");
      tick.textContent = `${second} s`;
      tick.style.left = `${(100 * second) / last}%`;
      this.part(".scale").append(tick);
    }
    this.describe();
  }

  part(selector) {
    return this.node.querySelector(selector);
  }

  describe() {
    const text = `${this.name}, pieces over time: ${this.rows} of ${full.rows} rows`;
    this.part(".line").setAttribute("aria-label", text);
  }

  leave() {
    this.abort.abort();
  }

  async read(path) {
    await known;
    this.began = performance.now();
    try {
      const response = await fetch(path, { cache: "no-store", signal: this.abort.signal });
      if (!response.ok) throw new Error(`status ${response.status}`);
      this.answered(how(response));
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        this.take(value);
      }
      this.finish();
    } catch (error) {
      if (error.name === "AbortError") this.ended("left", "Left", "left before the end");
      else this.ended("broken", "Broken off", `saw the connection break (${error.message})`);
    }
  }

  answered(how) {
    this.how = how;
    this.node.dataset.how = how;
    const [word, sentence] = HOW[how];
    this.part(".how").textContent = word;
    this.part(".end").textContent = sentence;
    say(`${this.name}: ${word.slice(2)}.`);
  }

  take(piece) {
    const ms = performance.now() - this.began;
    const rows = piece.reduce((sum, byte) => sum + (byte === 10), 0);
    if (this.bytes === 0) this.part(".first").textContent = `${shown(Math.round(ms))} ms`;
    this.rows += rows;
    this.bytes += piece.length;
    this.draw(ms / 1000, rows);
    this.describe();
    this.part(".rows").textContent = `${this.rows} of ${full.rows}`;
    this.part(".bytes").textContent = `${shown(this.bytes)} of ${shown(full.bytes)} bytes`;
    this.part(".length > div").style.width = `${(100 * this.bytes) / full.bytes}%`;
    if (this.rows >= full.rows / 2) this.isHalf();
  }

  draw(seconds, rows) {
    const bar = document.createElement("i");
    bar.style.left = `${Math.min(100, (100 * seconds) / this.seconds)}%`;
    bar.style.height = `${14 + (86 * rows) / full.rows}%`;
    if (rows > 3) bar.dataset.rows = `${rows} rows at once`;
    this.part(".bars").append(bar);
  }

  finish() {
    const [has, all] = [shown(this.bytes), shown(full.bytes)];
    if (this.bytes < full.bytes) {
      const what = `Truncated: ${has} of ${all} bytes, and it looks like a whole answer`;
      this.ended("truncated", what, `got a truncated body: ${has} of ${all} bytes`);
    } else {
      this.ended("whole", `Whole: ${all} bytes`, `has the whole body`);
    }
  }

  ended(state, text, news) {
    const signs = { whole: "✓", truncated: "✂", left: "←", broken: "✕" };
    this.reads = false;
    this.node.dataset.end = state;
    this.part(".end").textContent = `${signs[state]} ${text}.`;
    this.button.hidden = true;
    this.isHalf();
    if (this.node.isConnected) say(`${this.name} ${news}.`);
    count();
  }
}

function add() {
  if (viewers.filter((viewer) => viewer.reads).length >= MOST_READING) {
    say("Four viewers read already. Wait until one has ended, or let one leave.");
    return null;
  }
  while (viewers.length >= MOST_SHOWN) {
    const old = viewers.find((viewer) => !viewer.reads);
    viewers = viewers.filter((viewer) => viewer !== old);
    old.node.remove();
  }
  const viewer = new Viewer(`Viewer ${++made}`);
  viewers.push(viewer);
  byId("viewers").append(viewer.node);
  byId("none-yet").hidden = true;
  viewer.read(`rows/${mode()}`);
  return viewer;
}

async function startOver() {
  const mine = ++scene;
  for (const viewer of viewers) {
    viewer.node.remove();
    viewer.leave();
  }
  viewers = [];
  made = 0;
  byId("none-yet").hidden = false;
  byId("about").textContent = ABOUT[mode()];
  await pause(100); // The server sees first that they have left.
  try {
    await fetch("start-over", { method: "POST" });
  } catch {
    // The counters say that the server is away.
  }
  await count();
  return mine === scene;
}

async function leaveHalfWay() {
  if (!(await startOver())) return;
  const mine = scene;
  const first = add();
  await first.half;
  if (mine !== scene) return;
  first.leave();
  await pause(400);
  if (mine === scene) add();
}

async function count() {
  try {
    const found = await (await fetch("counters", { cache: "no-store" })).json();
    full = found;
    for (const node of document.querySelectorAll("[data-count]")) {
      const text = shown(found.counted[mode()][node.dataset.count]);
      if (node.textContent !== text) node.textContent = text;
    }
  } catch {
    say("The server does not answer: start the demo again.");
  }
}

async function keepCounting() {
  for (;;) {
    if (!document.hidden) await count();
    await pause(viewers.some((viewer) => viewer.reads) ? 400 : 2000);
  }
}

function begin() {
  byId("about").textContent = ABOUT[mode()];
  byId("add").addEventListener("click", add);
  byId("half").addEventListener("click", leaveHalfWay);
  byId("over").addEventListener("click", async () => {
    if (await startOver()) say("The caches are empty.");
  });
  byId("modes").addEventListener("change", startOver);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  known = count();
  keepCounting();
}

begin();
