"""Names of substances: sodium chloride is NaCl, iron(III) oxide is Fe2O3, dinitrogen tetroxide is N2O4, oxygen is O2 or O.

    name --trivial names | cation and anion by charge | numeral prefixes--> formulas that it may mean

Sources: IUPAC Red Book 2005 (nomenclature of inorganic compounds) for the rules; the tables hold what school and first-year
chemistry use. A name that gives no formula here is compared as words.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

MAX_NAME_CHARS = 60
ELEMENTS = {  # in the order of their atomic numbers
    "hydrogen": "H", "helium": "He", "lithium": "Li", "beryllium": "Be", "boron": "B", "carbon": "C", "nitrogen": "N",
    "oxygen": "O", "fluorine": "F", "neon": "Ne", "sodium": "Na", "magnesium": "Mg", "aluminum": "Al", "silicon": "Si",
    "phosphorus": "P", "sulfur": "S", "chlorine": "Cl", "argon": "Ar", "potassium": "K", "calcium": "Ca",
    "scandium": "Sc", "titanium": "Ti", "vanadium": "V", "chromium": "Cr", "manganese": "Mn", "iron": "Fe",
    "cobalt": "Co", "nickel": "Ni", "copper": "Cu", "zinc": "Zn", "gallium": "Ga", "germanium": "Ge", "arsenic": "As",
    "selenium": "Se", "bromine": "Br", "krypton": "Kr", "rubidium": "Rb", "strontium": "Sr", "yttrium": "Y",
    "zirconium": "Zr", "niobium": "Nb", "molybdenum": "Mo", "technetium": "Tc", "ruthenium": "Ru", "rhodium": "Rh",
    "palladium": "Pd", "silver": "Ag", "cadmium": "Cd", "indium": "In", "tin": "Sn", "antimony": "Sb", "tellurium": "Te",
    "iodine": "I", "xenon": "Xe", "cesium": "Cs", "barium": "Ba", "lanthanum": "La", "cerium": "Ce", "praseodymium": "Pr",
    "neodymium": "Nd", "promethium": "Pm", "samarium": "Sm", "europium": "Eu", "gadolinium": "Gd", "terbium": "Tb",
    "dysprosium": "Dy", "holmium": "Ho", "erbium": "Er", "thulium": "Tm", "ytterbium": "Yb", "lutetium": "Lu",
    "hafnium": "Hf", "tantalum": "Ta", "tungsten": "W", "rhenium": "Re", "osmium": "Os", "iridium": "Ir",
    "platinum": "Pt", "gold": "Au", "mercury": "Hg", "thallium": "Tl", "lead": "Pb", "bismuth": "Bi", "polonium": "Po",
    "astatine": "At", "radon": "Rn", "francium": "Fr", "radium": "Ra", "actinium": "Ac", "thorium": "Th",
    "protactinium": "Pa", "uranium": "U", "neptunium": "Np", "plutonium": "Pu", "americium": "Am", "curium": "Cm",
    "berkelium": "Bk", "californium": "Cf", "einsteinium": "Es", "fermium": "Fm", "mendelevium": "Md", "nobelium": "No",
    "lawrencium": "Lr", "rutherfordium": "Rf", "dubnium": "Db", "seaborgium": "Sg", "bohrium": "Bh", "hassium": "Hs",
    "meitnerium": "Mt", "darmstadtium": "Ds", "roentgenium": "Rg", "copernicium": "Cn", "nihonium": "Nh",
    "flerovium": "Fl", "moscovium": "Mc", "livermorium": "Lv", "tennessine": "Ts", "oganesson": "Og",
}  # fmt: skip
ELEMENT_SYMBOLS = frozenset(ELEMENTS.values())
DIATOMIC = frozenset({"H", "N", "O", "F", "Cl", "Br", "I"})
CATIONS = {  # of one charge; the others name it: iron(III)
    "sodium": ("Na", 1), "potassium": ("K", 1), "lithium": ("Li", 1), "rubidium": ("Rb", 1), "cesium": ("Cs", 1),
    "silver": ("Ag", 1), "hydrogen": ("H", 1), "ammonium": ("NH4", 1), "hydronium": ("H3O", 1), "magnesium": ("Mg", 2),
    "calcium": ("Ca", 2), "strontium": ("Sr", 2), "barium": ("Ba", 2), "beryllium": ("Be", 2), "zinc": ("Zn", 2),
    "cadmium": ("Cd", 2), "aluminum": ("Al", 3), "ferrous": ("Fe", 2), "ferric": ("Fe", 3), "cuprous": ("Cu", 1),
    "cupric": ("Cu", 2), "stannous": ("Sn", 2), "stannic": ("Sn", 4), "plumbous": ("Pb", 2), "plumbic": ("Pb", 4),
    "nickel": ("Ni", 2), "scandium": ("Sc", 3), "gallium": ("Ga", 3),
}  # fmt: skip
ANIONS = {
    "fluoride": ("F", 1), "chloride": ("Cl", 1), "bromide": ("Br", 1), "iodide": ("I", 1), "oxide": ("O", 2),
    "sulfide": ("S", 2), "selenide": ("Se", 2), "nitride": ("N", 3), "phosphide": ("P", 3), "hydride": ("H", 1),
    "hydroxide": ("OH", 1), "nitrate": ("NO3", 1), "nitrite": ("NO2", 1), "sulfate": ("SO4", 2), "sulfite": ("SO3", 2),
    "carbonate": ("CO3", 2), "hydrogen carbonate": ("HCO3", 1), "bicarbonate": ("HCO3", 1), "phosphate": ("PO4", 3),
    "cyanide": ("CN", 1), "hydrogen sulfate": ("HSO4", 1), "bisulfate": ("HSO4", 1), "hydrogen phosphate": ("HPO4", 2),
    "iodate": ("IO3", 1), "dihydrogen phosphate": ("H2PO4", 1), "permanganate": ("MnO4", 1), "chromate": ("CrO4", 2),
    "dichromate": ("Cr2O7", 2), "perchlorate": ("ClO4", 1), "chlorate": ("ClO3", 1), "chlorite": ("ClO2", 1),
    "hypochlorite": ("ClO", 1), "bromate": ("BrO3", 1), "thiosulfate": ("S2O3", 2), "thiocyanate": ("SCN", 1),
    "peroxide": ("O2", 2), "oxalate": ("C2O4", 2), "silicate": ("SiO3", 2), "hydrogen sulfite": ("HSO3", 1),
    "bisulfite": ("HSO3", 1), "azide": ("N3", 1),
}  # fmt: skip
ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7, "viii": 8}
PREFIXES = {
    "mono": 1, "di": 2, "tri": 3, "tetra": 4, "penta": 5, "hexa": 6, "hepta": 7, "octa": 8, "nona": 9, "deca": 10,
    "mon": 1, "tetr": 4, "pent": 5, "hex": 6, "hept": 7, "oct": 8, "dec": 10,
}  # fmt: skip
TRIVIAL = {  # every formula that people write for it
    "water": "H2O HOH", "ammonia": "NH3", "methane": "CH4", "ethane": "C2H6 CH3CH3", "propane": "C3H8 CH3CH2CH3",
    "butane": "C4H10", "ethylene": "C2H4 CH2CH2", "ethene": "C2H4 CH2CH2", "acetylene": "C2H2", "ethyne": "C2H2",
    "propene": "C3H6", "benzene": "C6H6", "methanol": "CH3OH CH4O", "methyl alcohol": "CH3OH CH4O",
    "ethanol": "C2H5OH CH3CH2OH C2H6O", "ethyl alcohol": "C2H5OH CH3CH2OH C2H6O", "formaldehyde": "HCHO CH2O",
    "acetone": "CH3COCH3 C3H6O (CH3)2CO", "acetic acid": "CH3COOH CH3CO2H HC2H3O2 C2H4O2",
    "ethanoic acid": "CH3COOH CH3CO2H HC2H3O2 C2H4O2", "formic acid": "HCOOH CH2O2", "glucose": "C6H12O6",
    "sucrose": "C12H22O11", "urea": "CO(NH2)2 CH4N2O", "ozone": "O3", "glycerol": "C3H8O3", "toluene": "C7H8 C6H5CH3",
    "phenol": "C6H5OH C6H6O", "aniline": "C6H5NH2 C6H7N", "hydrochloric acid": "HCl", "hydrofluoric acid": "HF",
    "hydrobromic acid": "HBr", "hydroiodic acid": "HI", "sulfuric acid": "H2SO4", "sulfurous acid": "H2SO3",
    "nitric acid": "HNO3", "nitrous acid": "HNO2", "phosphoric acid": "H3PO4", "carbonic acid": "H2CO3",
    "perchloric acid": "HClO4", "chloric acid": "HClO3", "hypochlorous acid": "HClO HOCl", "boric acid": "H3BO3 B(OH)3",
    "hydrocyanic acid": "HCN", "oxalic acid": "H2C2O4 C2H2O4", "hydrogen peroxide": "H2O2", "nitrous oxide": "N2O",
    "nitric oxide": "NO", "hydrazine": "N2H4", "phosphine": "PH3", "silane": "SiH4", "chloroform": "CHCl3",
    "table salt": "NaCl", "baking soda": "NaHCO3", "washing soda": "Na2CO3", "quicklime": "CaO", "slaked lime": "Ca(OH)2",
    "limestone": "CaCO3", "caustic soda": "NaOH", "silica": "SiO2", "quartz": "SiO2", "dry ice": "CO2",
    "laughing gas": "N2O", "milk of magnesia": "Mg(OH)2", "alumina": "Al2O3", "bleach": "NaClO", "saltpeter": "KNO3",
    "hematite": "Fe2O3", "magnetite": "Fe3O4", "sodium acetate": "CH3COONa NaCH3COO NaC2H3O2", "carbon monoxide": "CO",
    "proton": "H+",
}  # fmt: skip
_AMERICAN = (("sulph", "sulf"), ("aluminium", "aluminum"), ("caesium", "cesium"))
_CHARGED = re.compile(r"([a-z]+) ?\(([iv]+)\)")
_SIGNED = re.compile(r"([a-z]+) ?\((\d)\+\)")
_COUNTED = re.compile(rf"({'|'.join(sorted(PREFIXES, key=len, reverse=True))})([a-z]+)")
_STATE = re.compile(r"\s*(?:\((?:s|l|g|aq|solid|liquid|gas|aqueous)\)|gas|metal|vapor|solution)\Z")
_HYDRATE = re.compile(r"(.+) (mono|di|tri|tetra|penta|hexa|hepta|octa|nona|deca)hydrate")


@lru_cache(maxsize=1024)
def formulas(name: str) -> frozenset[str]:
    """The formulas that a name may mean, as H2O and Ca2+ are written on a line; empty for other words."""
    name = _american(" ".join(name.split()).strip(" ."))
    if not 2 < len(name) <= MAX_NAME_CHARS:
        return frozenset()
    is_gas = name.endswith(" gas")
    name = _STATE.sub("", name)
    if match := _HYDRATE.fullmatch(name):
        water = "H2O" if match[2] == "mono" else f"{PREFIXES[match[2]]}H2O"
        return frozenset(f"{one}*{water}" for one in formulas(match[1]))
    if name in TRIVIAL:
        return frozenset(TRIVIAL[name].split())
    if symbol := ELEMENTS.get(name):
        return _of_element(symbol, is_gas=is_gas)
    found = _ion(name) or _ionic(name) or _covalent(name)
    return frozenset({found} if found else ())


def element_symbol(name: str) -> str | None:
    """The symbol of an element by its name: Al for aluminum and for Aluminium."""
    return ELEMENTS.get(_american(name))


def _american(name: str) -> str:
    name = name.lower()
    for british, american in _AMERICAN:
        name = name.replace(british, american)
    return name


def _of_element(symbol: str, *, is_gas: bool) -> frozenset[str]:
    if symbol not in DIATOMIC:
        return frozenset({symbol, "S8"} if symbol == "S" else {symbol, "P4"} if symbol == "P" else {symbol})
    return frozenset({f"{symbol}2"} if is_gas else {symbol, f"{symbol}2"})


def _cation(name: str) -> tuple[str, int] | None:
    if match := _CHARGED.fullmatch(name):
        symbol, charge = ELEMENTS.get(match[1]), ROMAN.get(match[2])
    elif match := _SIGNED.fullmatch(name):
        symbol, charge = ELEMENTS.get(match[1]), int(match[2])
    else:
        return CATIONS.get(name)
    return (symbol, charge) if symbol and charge else None


def _ion(name: str) -> str | None:
    """A charged particle: Na+, Fe3+, SO42-. Iron(III) needs no "ion" behind it."""
    bare = name.removesuffix(" ion").removesuffix(" cation").removesuffix(" anion")
    if bare == name and not _CHARGED.fullmatch(name) and name not in ("ammonium", "hydronium", *ANIONS):
        return None
    charged, sign = (cation, "+") if (cation := _cation(bare)) else (ANIONS.get(bare), "-")
    if charged is None:
        return None
    symbol, charge = charged
    return f"{symbol}{charge if charge > 1 else ''}{sign}"


def _ionic(name: str) -> str | None:
    """Cation and anion, as many of each as make it neutral."""
    words = name.split()
    for at in range(1, len(words)):
        cation, anion = _cation(" ".join(words[:at])), ANIONS.get(" ".join(words[at:]))
        if cation and anion:
            common = math.lcm(cation[1], anion[1])
            if anion == ("O2", 2) and cation[1] == 1:
                return f"{cation[0]}2O2"
            return _times(cation[0], common // cation[1]) + _times(anion[0], common // anion[1])
    return None


def _covalent(name: str) -> str | None:
    """Dinitrogen tetroxide, carbon dioxide: the numerals give the formula. Without any there is no formula."""
    words = name.split()
    if len(words) != 2:
        return None
    first, second = _COUNTED.fullmatch(words[0]), _COUNTED.fullmatch(words[1])
    symbol = ELEMENTS.get(words[0]) or (ELEMENTS.get(first[2]) if first else None)
    anion = ANIONS.get(second[2]) or ANIONS.get("o" + second[2]) if second else None
    if symbol is None or anion is None or second is None or len(re.findall("[A-Z]", anion[0])) != 1:
        return None
    count = 1 if words[0] in ELEMENTS or first is None else PREFIXES[first[1]]
    return _times(symbol, count) + _times(anion[0], PREFIXES[second[1]])


def _times(group: str, count: int) -> str:
    if count == 1:
        return group
    return f"({group}){count}" if re.search(r"[A-Z].*[A-Z]|\d", group) else f"{group}{count}"
