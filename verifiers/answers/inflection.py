"""Singular forms and American spelling, so that electrons, electron and ionisation, ionization compare equal."""

from __future__ import annotations

import re

_BRITISH = (
    (re.compile(r"(?<=\w{3})is(?=(?:ation|ed|ing|e|er)s?\Z)"), "iz"),
    (re.compile(r"(?<=\w{2})our(?=s?\Z|ed\Z|less\Z)"), "or"), (re.compile(r"\Asulph"), "sulf"),
    (re.compile(r"\Aaluminium"), "aluminum"), (re.compile(r"tre\Z"), "ter"), (re.compile(r"(?<=[a-z])aem|\Ahaem"), "hem"),
    (re.compile(r"\Aoe(?=s)"), "e"),
)  # fmt: skip
_IRREGULAR = {
    "mitochondria": "mitochondrion", "bacteria": "bacterium", "nuclei": "nucleus", "mice": "mouse", "feet": "foot",
    "phenomena": "phenomenon", "vertices": "vertex", "matrices": "matrix", "stimuli": "stimulus", "fungi": "fungus",
    "alveoli": "alveolus", "criteria": "criterion", "spectra": "spectrum",
    "leaves": "leaf", "halves": "half", "women": "woman", "men": "man", "people": "person", "children": "child",
    "teeth": "tooth", "axes": "axis", "indices": "index", "quanta": "quantum", "ova": "ovum", "larvae": "larva",
    "vertebrae": "vertebra", "algae": "alga", "genera": "genus", "loci": "locus", "foci": "focus", "radii": "radius",
    "dice": "die", "data": "datum", "media": "medium", "maxima": "maximum", "minima": "minimum", "optima": "optimum",
    "hypotheses": "hypothesis", "analyses": "analysis", "syntheses": "synthesis", "viruses": "virus",
    "gases": "gas", "bonding": "bond",
}  # fmt: skip


def singular(word: str) -> str:
    """The singular of a noun, which is also the base of a verb in the third person; American spelling."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for pattern, american in _BRITISH:
        word = pattern.sub(american, word)
    if len(word) <= 3 or word[-1] != "s" or word.endswith(("ss", "us", "is", "ous", "ics")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zzes")):
        return word[:-2]
    return word[:-1]
