// Live updates, copying, selecting all rows, long operations. The pages work without it too.
(() => {
  "use strict";
  const live = document.getElementById("srq-live");
  if (!live) return;
  const headers = {"X-SRQ-Live": "1"};
  const say = document.createElement("p");
  say.className = "srq-said";
  say.setAttribute("role", "status");

  const dress = () => {
    // Over plain HTTP there is none.
    const useful = navigator.clipboard ? ".srq-copy, .srq-all" : ".srq-all";
    for (const element of live.querySelectorAll(useful)) element.hidden = false;
  };

  const swap = (html) => {
    const scrolled = [...live.querySelectorAll(".srq-scroll")].map((one) => one.scrollLeft);
    live.innerHTML = html;
    [...live.querySelectorAll(".srq-scroll")].forEach((one, i) => { one.scrollLeft = scrolled[i] || 0; });
    dress();
  };

  const fetched = async (url, options) => {
    const response = await fetch(url, {...options, headers, credentials: "same-origin"});
    if (!response.ok || response.redirected) throw response;
    return response.text();
  };

  const every = Number(live.dataset.every) * 1000;
  if (every) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = live.dataset.pause;
    let paused = false;
    const bar = document.createElement("div");
    bar.className = "srq-updates";
    bar.append(button, say);
    live.after(bar);
    const tell = (text) => { if (say.textContent !== text) say.textContent = text; };
    button.addEventListener("click", () => {
      paused = !paused;
      button.textContent = paused ? live.dataset.resume : live.dataset.pause;
      tell(paused ? live.dataset.paused : "");
    });
    // An update must not replace what somebody is using.
    const inUse = () => live.contains(document.activeElement) || live.querySelector("input:checked, details[open]")
      || (!getSelection().isCollapsed && live.contains(getSelection().anchorNode));
    const update = async () => {
      if (!paused && !document.hidden) {
        if (inUse()) {
          tell(live.dataset.waiting);
        } else {
          try {
            const html = await fetched(location.href);
            if (!paused && !inUse()) {
              swap(html);
              tell("");
            }
          } catch (error) {
            tell(error.redirected ? live.dataset.login : live.dataset.lost);
          }
        }
      }
      setTimeout(update, every);
    };
    setTimeout(update, every);
  } else {
    live.after(say);
  }

  let stopped = false, batch = null;
  const goOn = async () => {
    const form = live.querySelector("form");
    try {
      const html = await fetched(form.action, {method: "POST", body: new FormData(form)});
      const had = document.activeElement?.name;
      live.innerHTML = html;
      if (had) live.querySelector(`[name="${had}"]`)?.focus();
      later(50);
    } catch {
      live.querySelector("[data-go]")?.removeAttribute("data-go"); // the buttons stay
    }
  };
  const later = (ms) => setTimeout(() => { if (!stopped && live.querySelector("[data-go]")) batch = goOn(); }, ms);
  live.addEventListener("submit", async (event) => {
    if (!stopped && batch) {
      event.preventDefault();
      stopped = true;
      await batch; // then its page tells the outcome
      live.querySelector(`[name="${event.submitter.name}"]`)?.click();
    }
    stopped = true;
  });

  live.addEventListener("click", async (event) => {
    const target = event.target;
    if (target.matches(".srq-copy")) {
      await navigator.clipboard.writeText(target.parentElement.querySelector("pre").textContent);
      say.textContent = live.dataset.copied || target.textContent + " ✓";
    } else if (target.matches(".srq-all")) {
      for (const box of live.querySelectorAll('input[name="uid"]')) box.checked = target.checked;
    }
  });

  dress();
  later(300);
})();
