"use strict";
// Everything here adds to a page that already works by links and titles alone.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const photos = JSON.parse(document.getElementById("photos").textContent);
  const map = document.getElementById("site");
  const card = document.getElementById("card");
  const tip = document.getElementById("tip");

  const node = (name, text, parent) => {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  };

  // Choosing a photograph: its camera, footprint, chart dots and problems light up together.
  const fill = (index) => {
    const photo = photos[index];
    card.replaceChildren();
    if (photo.thumbnail) node("img", "", card).src = photo.thumbnail;
    if (photo.thumbnail) card.firstChild.alt = photo.name;
    node("h3", photo.name, card);
    const list = node("dl", "", card);
    for (const [term, value] of photo.facts) {
      const pair = node("div", "", list);
      node("dt", term, pair);
      node("dd", value, pair);
    }
    const troubles = document.querySelectorAll(`.problems tr[data-photo="${index}"]`);
    if (troubles.length) {
      const words = [...troubles].map((row) => row.closest("details").dataset.title);
      node("p", [...new Set(words)].join(", "), card).className = "is-serious";
    }
    const close = node("button", "Close", card);
    close.type = "button";
    close.addEventListener("click", clear);
    // Beside the camera, not over it.
    const camera = document.getElementById(`photo-${index}`).getBoundingClientRect();
    const frame = map.getBoundingClientRect();
    card.classList.toggle("right", camera.left + camera.right < frame.left + frame.right);
    card.classList.add("open");
  };
  const clear = () => {
    document.querySelectorAll(".chosen").forEach((one) => one.classList.remove("chosen"));
    card.classList.remove("open");
    history.replaceState(null, "", location.pathname + location.search);
  };
  const choose = (index) => {
    if (!photos[index]) return;
    clear();
    document.querySelectorAll(`[data-photo="${index}"]`).forEach((one) => {
      one.classList.add("chosen");
      if (one.classList.contains("camera")) one.parentNode.append(one); // drawn above its neighbours
    });
    fill(index);
    history.replaceState(null, "", `#photo-${index}`);
    const box = map.getBoundingClientRect();
    if (box.bottom < 80 || box.top > innerHeight - 80) {
      map.scrollIntoView({block: "start", behavior: "smooth"});
    }
  };
  let dragged = false;
  document.addEventListener("click", (event) => {
    const one = event.target.closest("[data-photo]");
    if (!one) return;
    event.preventDefault();
    if (!dragged) choose(Number(one.dataset.photo));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") clear();
  });

  // Hovering: the picture and its name beside the pointer, in place of the browser's slow title.
  document.querySelectorAll("a.photo > title").forEach((title) => title.remove());
  document.addEventListener("pointermove", (event) => {
    const one = event.pointerType === "mouse" && event.target.closest("a.photo");
    tip.hidden = !one;
    if (!one) return;
    if (tip.dataset.label !== one.getAttribute("aria-label")) {
      tip.dataset.label = one.getAttribute("aria-label");
      tip.replaceChildren();
      const photo = photos[Number(one.dataset.photo)];
      if (photo.thumbnail) node("img", "", tip).src = photo.thumbnail;
      node("span", tip.dataset.label, tip);
    }
    const left = event.clientX + 18 + tip.offsetWidth > innerWidth;
    const above = event.clientY + 14 + tip.offsetHeight > innerHeight;
    tip.style.left = `${event.clientX + (left ? -tip.offsetWidth - 12 : 16)}px`;
    tip.style.top = `${Math.max(4, event.clientY + (above ? -tip.offsetHeight - 8 : 12))}px`;
  });

  // The map's scale: buttons, and dragging when it is enlarged. Marks keep their size on the screen.
  const whole = {w: map.viewBox.baseVal.width, h: map.viewBox.baseVal.height};
  const shownWidth = () => Math.min(map.clientWidth, map.clientHeight * whole.w / whole.h);
  let view = {x: 0, y: 0, w: whole.w, h: whole.h};
  const show = () => {
    view.x = Math.min(Math.max(view.x, 0), whole.w - view.w);
    view.y = Math.min(Math.max(view.y, 0), whole.h - view.h);
    map.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
    map.classList.toggle("zoomed", view.w < whole.w);
    const small = innerWidth < 640 ? 0.8 : 1;
    if (shownWidth()) map.style.setProperty("--mark", small * view.w / shownWidth());
  };
  const zoom = (by) => {
    const w = Math.min(whole.w, Math.max(whole.w / 12, view.w * by));
    const h = w * whole.h / whole.w;
    view = {x: view.x + (view.w - w) / 2, y: view.y + (view.h - h) / 2, w, h};
    show();
  };
  document.querySelectorAll(".zoom button").forEach((button) => {
    button.addEventListener("click", () => zoom(Number(button.dataset.by)));
  });
  let held = null;
  map.addEventListener("pointerdown", (event) => {
    dragged = false;
    if (view.w < whole.w) held = {x: event.clientX, y: event.clientY, from: {...view}};
  });
  addEventListener("pointermove", (event) => {
    if (!held) return;
    const dx = event.clientX - held.x, dy = event.clientY - held.y;
    if (Math.hypot(dx, dy) > 4) dragged = true;
    const units = view.w / shownWidth();
    view.x = held.from.x - dx * units;
    view.y = held.from.y - dy * units;
    show();
  });
  addEventListener("pointerup", () => { held = null; });
  map.addEventListener("dragstart", (event) => event.preventDefault());
  addEventListener("resize", show);
  show();

  const wanted = /^#photo-(\d+)$/.exec(location.hash);
  if (wanted) choose(Number(wanted[1]));
})();
