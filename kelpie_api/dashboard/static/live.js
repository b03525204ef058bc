// The part of a page that is asked for again every few seconds: not in a hidden tab, and not while it is paused by hand.
"use strict";
const known = new Map();
const button = document.getElementById("pause");
const PAUSED = "kelpie-paused";

function isPaused() {
  return sessionStorage.getItem(PAUSED) === "yes";
}

function show() {
  button.hidden = false;
  button.textContent = isPaused() ? "Paused – go on" : "Live – pause";
  button.setAttribute("aria-pressed", String(isPaused()));
}

button.addEventListener("click", () => {
  sessionStorage.setItem(PAUSED, isPaused() ? "no" : "yes");
  show();
});
show();

// Where many tabs ask, the server says after how many seconds each part may be asked for again. It is asked for just
// then: at the next of its usual times, those that came together would come together again.
const notBefore = new Map();
const timers = new Map();
const isTooSoon = (id) => performance.now() < (notBefore.get(id) ?? 0);
function askAfter(id, seconds) {
  clearTimeout(timers.get(id));
  notBefore.set(id, performance.now() + 1000 * seconds);
  if (seconds) timers.set(id, setTimeout(askNow, 1000 * seconds, id));
}
function askNow(id) {
  notBefore.delete(id);
  document.getElementById(id)?.dispatchEvent(new Event("due"));
}

const selected = () => document.querySelector("#live input[name=id]:checked");

// While jobs are selected the list stays as it is.
document.addEventListener("htmx:before:request", (event) => {
  const { request, sourceElement } = event.detail.ctx;
  if (document.hidden || isPaused() || selected() || isTooSoon(sourceElement.id)) {
    event.preventDefault();
  } else if (known.has(request.action)) {
    request.headers["If-None-Match"] = known.get(request.action);
  }
});

document.addEventListener("htmx:before:response", (event) => {
  const { request, response, sourceElement } = event.detail.ctx;
  askAfter(sourceElement.id, Number(response.headers.get("Kelpie-Ask-After")));
  if (response.status === 200) {
    if (response.headers.has("ETag")) known.set(request.action, response.headers.get("ETag"));
    return;
  }
  event.preventDefault(); // unchanged, or the server is away: the page stays as it is
  if (response.status === 401) location.reload(); // which leads to the form for signing in
});

// Output goes on for days: its oldest pieces go once it is long.
const MOST_PIECES = 400;
document.addEventListener("htmx:after:swap", () => {
  const pieces = document.querySelectorAll("#output .piece");
  for (const piece of [...pieces].slice(0, Math.max(0, pieces.length - MOST_PIECES))) piece.remove();
});

document.addEventListener("change", (event) => {
  if (event.target.id !== "all") return;
  for (const box of document.querySelectorAll("#live input[name=id]")) box.checked = event.target.checked;
});
