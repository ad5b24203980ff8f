// Before anything is painted: light or dark, as the Airflow around this page is, or as it was when it was last open.
(() => {
  function isDark() {
    try {
      if (window.parent !== window) return window.parent.document.documentElement.classList.contains("dark");
      const chosen = localStorage.getItem("theme");
      if (chosen === "dark" || chosen === "light") return chosen === "dark";
    } catch {
      // A page of another origin around ours, or no storage.
    }
    return matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function apply() {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    document.dispatchEvent(new Event("theme"));
  }

  apply();
  addEventListener("storage", apply);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  try {
    if (window.parent !== window) {
      new MutationObserver(apply).observe(window.parent.document.documentElement, { attributeFilter: ["class"] });
    }
  } catch {
    // As above.
  }
})();
