// Take the token out of the address, where it would stay in the history, into the form; the button sends it.
"use strict";
const token = location.hash.slice(1);
if (token) {
  const label = document.getElementById("token");
  label.querySelector("input").value = token;
  label.hidden = true;
  history.replaceState(null, "", location.pathname);
  document.querySelector("button.main").focus();
}
