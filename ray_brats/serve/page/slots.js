// A slot for each modality that the model reads: what is there, what is missing, what is wrong.

import { TITLES, caseAndKind } from "./naming.js";

export class Slots {
  // chosen(modality, file): after a file was chosen for one slot.
  constructor(list, chosen) {
    this.list = list;
    this.chosen = chosen;
    this.made = new Map();
  }

  // modalities: in the model's order; files: by modality; busy: nothing can be chosen.
  show(modalities, files, busy) {
    if (modalities.join() !== [...this.made.keys()].join()) this.#make(modalities);
    for (const [modality, { item, name, button }] of this.made) {
      const file = files[modality];
      const other = file && caseAndKind(file.name);
      item.dataset.state = file ? "there" : "missing";
      name.textContent = file
        ? file.name + (other && other.kind !== modality ? ` (named ${other.kind})` : "")
        : "missing";
      button.disabled = busy;
    }
  }

  // Marks the slot at fault, by modality or file name; "" where none is. Returns its title.
  blame(culprit) {
    let title = "";
    for (const [modality, { item, name }] of this.made) {
      const its = Boolean(culprit) && (culprit === modality || culprit === name.textContent);
      item.classList.toggle("bad", its);
      if (its) title = `${TITLES[modality] || modality} (${name.textContent})`;
    }
    return title;
  }

  #make(modalities) {
    this.made.clear();
    for (const modality of modalities) {
      const title = TITLES[modality] || modality;
      const item = document.createElement("li");
      item.dataset.modality = modality;
      item.innerHTML = `<b></b> <span class="file"></span>
        <button type="button">Choose</button><input type="file" hidden accept=".nii,.gz">`;
      item.querySelector("b").textContent = title;
      const [name, button, input] = ["span", "button", "input"].map((part) =>
        item.querySelector(part));
      button.setAttribute("aria-label", `Choose the file of ${title}`);
      input.setAttribute("aria-label", `File of ${title}`);
      button.addEventListener("click", () => input.click());
      input.addEventListener("change", () => {
        if (input.files.length) this.chosen(modality, input.files[0]);
        input.value = "";
      });
      this.made.set(modality, { item, name, button });
    }
    this.list.replaceChildren(...[...this.made.values()].map(({ item }) => item));
  }
}
