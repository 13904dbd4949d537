// Saves every change. What the server has not taken yet is kept in this browser and sent until it is taken.

const PLACE = `study ${location.pathname}`;
const RETRY_MS = 1000;
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Saver {
  constructor(onStatus) {
    this.onStatus = onStatus;
    this.latest = null;
    this.pumping = null;
  }

  // What an earlier page could not send about this presentation, or null.
  unsent(id) {
    try {
      const kept = JSON.parse(localStorage.getItem(PLACE));
      return kept?.id === id ? kept.answer : null;
    } catch {
      return null;
    }
  }

  // Send the newest answer; resolves once the server has it.
  put(id, answer) {
    this.latest = { id, answer };
    try {
      localStorage.setItem(PLACE, JSON.stringify(this.latest));
    } catch {
      // No room or no right to keep it here: the server still gets it.
    }
    this.pumping ??= this.#pump().finally(() => (this.pumping = null));
    return this.pumping;
  }

  async #pump() {
    while (this.latest) {
      const sending = this.latest;
      const response = await request(`answer/${sending.id}`, this.onStatus, {
        method: "PUT",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(sending.answer),
      });
      if (!response.ok && response.status !== 409) {
        this.onStatus(`refused: ${(await response.json()).error ?? response.status}`, true);
      }
      if (this.latest === sending) {
        this.latest = null;
        try {
          localStorage.removeItem(PLACE);
        } catch {
          // See above.
        }
      }
    }
  }
}

// Fetch until the server answers.
export async function request(path, onStatus, options = {}) {
  for (;;) {
    try {
      const response = await fetch(path, { cache: "no-store", ...options });
      if (response.status < 500) {
        onStatus(response.ok ? "saved" : "", false);
        return response;
      }
    } catch {
      // The server is away.
    }
    onStatus("no server: answers are kept here and sent when it is back", true);
    await wait(RETRY_MS);
  }
}
