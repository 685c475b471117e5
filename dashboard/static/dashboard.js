// Refreshes the elements marked with data-refresh (seconds) while the page is visible, and submits
// each form only once, however often its button is clicked.
(function () {
  "use strict";

  let sent = new WeakSet();

  document.addEventListener("submit", function (event) {
    if (sent.has(event.target)) {
      event.preventDefault();
    }
    sent.add(event.target);
  });

  window.addEventListener("pageshow", function () {
    sent = new WeakSet(); // the user came back to the page
  });

  document.addEventListener("change", function (event) {
    const name = event.target.dataset.check; // this box checks all boxes of that name
    if (name) {
      event.target.form.querySelectorAll("input[name=" + name + "]").forEach(function (box) {
        box.checked = event.target.checked;
      });
    }
  });

  function interval() {
    const marked = document.querySelector("[data-refresh]");
    return marked ? Number(marked.dataset.refresh) * 1000 : 0;
  }

  function replace(old, fresh) {
    if (old.isEqualNode(fresh)) {
      return; // the user may be about to click on it
    }
    old.querySelectorAll("details[open][id]").forEach(function (details) {
      const same = fresh.querySelector("#" + CSS.escape(details.id));
      if (same) {
        same.open = true;
      }
    });
    const focused = old.contains(document.activeElement) && document.activeElement.id;
    old.replaceWith(fresh);
    if (focused && document.getElementById(focused)) {
      document.getElementById(focused).focus({ preventScroll: true });
    }
  }

  async function refresh() {
    if (!document.hidden) {
      try {
        // Not location.href: fetch refuses a URL with a password.
        const answer = await fetch(location.origin + location.pathname + location.search);
        if (answer.redirected) {
          location.assign(answer.url); // there is another page to show
          return;
        }
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const marked = document.querySelectorAll("[data-refresh]");
        const found = Array.from(marked, (old) => page.getElementById(old.id));
        if (answer.ok && found.some((fresh) => fresh === null)) {
          location.reload(); // it has become another page
          return;
        }
        if (answer.ok) {
          marked.forEach((old, index) => replace(old, found[index]));
        }
        document.body.classList.toggle("dash-stale", !answer.ok);
      } catch (error) {
        document.body.classList.add("dash-stale");
      }
    }
    next();
  }

  function next() {
    const wait = interval();
    if (wait) {
      setTimeout(refresh, wait);
    }
  }

  next();
})();
