"use strict";
/* Images of the next message: from files, pasted or dropped, made small enough to be kept. */
const images = (() => {
  const LARGEST = 1280;
  const holder = document.getElementById("pictures");
  let urls = [];

  async function shrink(file) {
    const picture = await createImageBitmap(file);
    const scale = Math.min(1, LARGEST / Math.max(picture.width, picture.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(picture.width * scale));
    canvas.height = Math.max(1, Math.round(picture.height * scale));
    const pen = canvas.getContext("2d");
    // JPEG knows no transparency.
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/jpeg", 0.88);
  }

  function show() {
    holder.hidden = !urls.length;
    holder.replaceChildren(...urls.map((url, at) => {
      const item = document.createElement("li"), button = document.createElement("button"), image = document.createElement("img");
      image.src = url;
      image.alt = "";
      button.type = "button";
      button.setAttribute("aria-label", `Remove image ${at + 1}`);
      button.append(image);
      button.addEventListener("click", () => { urls.splice(at, 1); show(); });
      item.append(button);
      return item;
    }));
  }

  return {
    /** Add what are images among `files`; returns the names of those that cannot be read. */
    async add(files) {
      const unread = [];
      for (const file of files) {
        if (!file.type.startsWith("image/")) continue;
        try {
          urls.push(await shrink(file));
        } catch {
          unread.push(file.name);
        }
      }
      show();
      return unread;
    },

    get count() { return urls.length; },

    /** All of them; there are none afterwards. */
    take() {
      const taken = urls;
      urls = [];
      show();
      return taken;
    },
  };
})();
