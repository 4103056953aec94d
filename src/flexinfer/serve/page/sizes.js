"use strict";
/* Numbers as people read them. */
const sizes = (() => {
  const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const counts = new Intl.NumberFormat("en");

  /** Three digits, as 1.78 or 24.1 or 512. */
  const digits = (value) => {
    const size = Math.abs(value);
    return value.toFixed(size >= 99.95 || size === 0 ? 0 : size >= 9.995 ? 1 : 2);
  };

  return {
    count: (value) => counts.format(value),
    rate: (value) => (Number.isFinite(value) ? digits(value) : "–"),
    percent: (value) => `${Math.round(100 * value)} %`,
    bytes(value) {
      let unit = 0;
      while (Math.abs(value) >= 999.5 && unit < UNITS.length - 1) { value /= 1024; unit++; }
      return `${unit ? digits(value) : Math.round(value)} ${UNITS[unit]}`;
    },
  };
})();
