// The login form.

import * as api from "./api.js";
import { h } from "./dom.js";

/** Shows the form, and calls `onDone` with the session. */
export function showLogin(message, onDone) {
  const alert = h("p", { role: "alert" }, message);
  const token = h("input", {
    type: "password",
    name: "token",
    autocomplete: "current-password",
    required: true,
  });
  const button = h("button", { class: "primary" }, "Log in");
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      onDone(await api.login(token.value.trim()));
    } catch (error) {
      alert.textContent =
        {
          401: "This is not the token.",
          429: "Too many attempts. Wait a minute.",
        }[error.status] ?? error.message;
      button.disabled = false;
      token.select();
    }
  };
  document.body.replaceChildren(
    h(
      "main",
      { class: "login" },
      h(
        "form",
        { onsubmit: submit },
        h("h1", {}, "sealgate"),
        // Password managers store a token under a name.
        h("input", { name: "username", autocomplete: "username", value: "sealgate", hidden: true }),
        h("label", {}, "Token", token),
        h(
          "p",
          { class: "muted small" },
          "The value of ",
          h("code", {}, "[admin] token"),
          " or ",
          h("code", {}, "viewer_token"),
          " in the configuration.",
        ),
        button,
        alert,
      ),
    ),
  );
  token.focus();
}
