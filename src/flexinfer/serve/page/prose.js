"use strict";
/* Text becomes nodes: lines as they are, fenced blocks as code. No text is ever read as markup. */
const prose = (() => {
  const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;

  /** Pieces of a text: {code, language, text}. A fence that is still open is code already. */
  function pieces(text) {
    const found = [];
    let lines = [], fence = null;
    const flush = (code, language = "") => {
      const piece = lines.join("\n");
      if (code || piece.trim()) found.push({ code, language, text: code ? piece : piece.replace(/^\n+|\s+$/g, "") });
      lines = [];
    };
    for (const line of text.split("\n")) {
      const match = FENCE.exec(line);
      if (fence === null && match) {
        flush(false);
        fence = { mark: match[1], language: match[2] };
      } else if (fence !== null && line.trim().startsWith(fence.mark) && !line.trim().slice(fence.mark.length).replaceAll(fence.mark[0], "")) {
        flush(true, fence.language);
        fence = null;
      } else {
        lines.push(line);
      }
    }
    flush(fence !== null, fence?.language);
    return found;
  }

  function nodeFor(piece) {
    if (!piece.code) {
      const node = document.createElement("div");
      node.className = "text";
      return node;
    }
    const node = document.getElementById("code-template").content.firstElementChild.cloneNode(true);
    node.querySelector("pre").setAttribute("aria-label", "Code");
    return node;
  }

  /** `code` between backticks is set as code; everything else is text. */
  function fillText(node, text) {
    const parts = text.split(/`([^`\n]+)`/);
    if (parts.length === 1 && node.childNodes.length === 1 && node.firstChild.nodeType === Node.TEXT_NODE) {
      const old = node.firstChild.data;
      if (text.startsWith(old)) node.firstChild.appendData(text.slice(old.length));
      else node.firstChild.data = text;
      return;
    }
    node.replaceChildren(...parts.map((part, at) => {
      if (at % 2 === 0) return document.createTextNode(part);
      const code = document.createElement("code");
      code.textContent = part;
      return code;
    }));
  }

  function fill(node, piece) {
    if (!piece.code) return fillText(node, piece.text);
    node.querySelector(".language").textContent = piece.language || "code";
    node.querySelector("code").textContent = piece.text;
  }

  return {
    pieces,

    /** Have `holder` show `text`; pieces that did not change keep their nodes. */
    show(holder, text) {
      const wanted = pieces(text);
      const shown = holder.pieces ?? [];
      for (let at = 0; at < wanted.length; at++) {
        const piece = wanted[at], old = shown[at];
        if (old && old.code === piece.code && old.text === piece.text && old.language === piece.language) continue;
        let node = holder.children[at];
        if (!node || old.code !== piece.code) {
          const fresh = nodeFor(piece);
          if (node) node.replaceWith(fresh);
          else holder.append(fresh);
          node = fresh;
        }
        fill(node, piece);
      }
      while (holder.children.length > wanted.length) holder.lastElementChild.remove();
      holder.pieces = wanted;
    },
  };
})();
