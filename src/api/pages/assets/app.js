// Makes pages better; each works without it.
"use strict";

// What is shown once can be copied.
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copy).textContent.trim();
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  });
}

// What goes on is read again, in place.
const lively = document.querySelector("main[data-refresh]");
if (lively) {
  const refresh = async () => {
    if (document.hidden) return;
    // Nobody asks for this: a session that is otherwise unused comes to its end all the same.
    const headers = { accept: "text/html", "x-octroi-refresh": "1" };
    const answer = await fetch(location.href, { headers }).catch(() => null);
    if (answer && answer.redirected) location.reload();
    if (!answer || !answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      if (part.contains(document.activeElement)) continue;
      const fresh = page.getElementById(part.id);
      if (fresh && fresh.innerHTML !== part.innerHTML) part.replaceChildren(...fresh.childNodes);
    }
  };
  setInterval(refresh, Number(lively.dataset.refresh) * 1000);
}

// A form is sent once, however often its button is pressed.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", () => {
    setTimeout(() => form.querySelectorAll("button").forEach((button) => { button.disabled = true; }));
  });
}
