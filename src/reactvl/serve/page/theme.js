// Light, dark, or as the system has it. The choice is kept in this browser.

const ORDER = ["auto", "light", "dark"];

export function switchTheme(button) {
  let theme = kept();
  const show = () => {
    document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  button.addEventListener("click", () => {
    theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
    try {
      localStorage.setItem("reactvl-theme", theme);
    } catch {
      // a browser that keeps nothing: the choice lasts as long as the page
    }
    show();
  });
  show();
}

function kept() {
  try {
    const theme = localStorage.getItem("reactvl-theme");
    return ORDER.includes(theme) ? theme : "auto";
  } catch {
    return "auto";
  }
}
