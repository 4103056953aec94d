"use strict";
/* The colours that were chosen here, before the first frame. */
try {
  document.documentElement.dataset.colours = localStorage.getItem("flexinfer.colours") ?? "system";
} catch { /* then nothing was kept */ }
