"""Tables of characters and commands that mean the same, and the pass that makes one spelling of the characters."""

# ruff: noqa: RUF001  the tables list look-alikes on purpose

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPT = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUBSCRIPT = re.compile(r"[₀₁₂₃₄₅₆₇₈₉₊₋]+")
_OVERLINED = re.compile(r"(?:\d[\u0304\u0305])+|(?:\d\u0307)+")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-")
# Characters that nobody sees are left out. Those that turn the direction of reading stay, so that 21 is never read as 12.
_INVISIBLE = dict.fromkeys((0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0x2061, 0x2062, 0x2063, 0xFE0E, 0xFE0F, 0xFEFF))
_FRACTIONS = {char: unicodedata.normalize("NFKC", char) for char in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
# What compatibility normalisation would take for a plain letter.
_BEFORE = str.maketrans({
    **_INVISIBLE,
    **{char: "\\frac{{{}}}{{{}}}".format(*text.split("⁄")) for char, text in _FRACTIONS.items()},
    "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}",
    "º": "°", "´": "'",
})  # fmt: skip
_AFTER = str.maketrans({
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "➖": "-",
    "’": "'", "‘": "'", "′": "'", "`": "'",
    "×": "\\times ", "⋅": "\\cdot ", "·": "\\cdot ", "∙": "\\cdot ", "•": "\\cdot ", "∗": "*", "÷": "/", "⁄": "/", "∕": "/",
    "±": "\\pm ", "∓": "\\mp ", "∞": "\\infty ", "√": "\\sqrt ", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]",
    "≤": "\\le ", "≥": "\\ge ", "⩽": "\\le ", "⩾": "\\ge ", "≦": "\\le ", "≧": "\\ge ", "≠": "\\neq ", "∣": "|",
    "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset ", "∖": "\\setminus ", "∀": "\\forall ",
    "∑": "\\sum ", "∏": "\\prod ", "∫": "\\int ", "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ",
    "π": "\\pi ", "θ": "\\theta ", "λ": "\\lambda ", "μ": "\\mu ", "Ω": "\\Omega ", "φ": "\\phi ", "ε": "\\epsilon ",
    "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ", "δ": "\\delta ", "ω": "\\omega ", "ρ": "\\rho ", "σ": "\\sigma ",
    "τ": "\\tau ", "ψ": "\\psi ", "Δ": "\\Delta ", "Γ": "\\Gamma ", "Φ": "\\Phi ", "Σ": "\\Sigma ",
    "°": "^\\circ ", "≈": "\\approx ", "Å": "\\AA ", "⟨": "\\langle ", "⟩": "\\rangle ",
    "≡": "\\equiv ", "→": "\\to ", "⇒": "\\Rightarrow ", "∨": "\\text{ or }", "∧": "\\text{ and }",
    "，": ",", "、": ",", "。": ".", "【": "[", "】": "]",
})  # fmt: skip
COMMANDS: dict[str, str] = {
    # sizing, which has no meaning
    "\\left": "", "\\right": "", "\\middle": "", "\\limits": "", "\\nolimits": "", "\\displaystyle": "", "\\textstyle": "",
    "\\big": "", "\\Big": "", "\\bigl": "", "\\bigr": "", "\\Bigl": "", "\\Bigr": "", "\\bigg": "", "\\Bigg": "", "\\!": "",
    "\\biggl": "", "\\biggr": "", "\\Biggl": "", "\\Biggr": "", "\\scriptstyle": "",
    # spaces
    "\\,": " ", "\\;": " ", "\\:": " ", "\\ ": " ", "\\>": " ", "\\\n": " ", "\\\t": " ",
    "\\quad": " ", "\\qquad": " ", "\\thinspace": " ", "\\medspace": " ", "\\enspace": " ", "\\enskip": " ",
    # several names of one symbol
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\nicefrac": "\\frac", "\\sfrac": "\\frac",
    "\\dbinom": "\\binom", "\\tbinom": "\\binom",
    "\\leq": "\\le ", "\\leqslant": "\\le ", "\\leqq": "\\le ", "\\lt": "<", "\\ne": "\\neq ",
    "\\geq": "\\ge ", "\\geqslant": "\\ge ", "\\geqq": "\\ge ", "\\gt": ">", "\\simeq": "\\approx ",
    "\\varnothing": "\\emptyset ", "\\O": "\\emptyset ", "\\R": "\\mathbb{R}", "\\Reals": "\\mathbb{R}",
    "\\Z": "\\mathbb{Z}", "\\N": "\\mathbb{N}",
    "\\degree": "^\\circ ", "\\textdegree": "^\\circ ", "\\infin": "\\infty ", "\\textmu": "\\mu ", "\\ohm": "\\Omega ",
    "\\lbrace": "\\{", "\\rbrace": "\\}", "\\%": "%", "\\colon": ":", "\\ast": "*", "\\textbackslash": "\\backslash ",
    "\\lparen": "(", "\\rparen": ")", "\\lbrack": "[", "\\rbrack": "]",
    "\\mid": "|", "\\vert": "|", "\\lvert": "|", "\\rvert": "|", "\\lor": "\\text{ or }", "\\land": "\\text{ and }",
    "\\vee": "\\text{ or }", "\\wedge": "\\text{ and }",
    "\\cdots": "\\ldots ", "\\dots": "\\ldots ", "\\dotsc": "\\ldots ", "\\dotsb": "\\ldots ", "\\dotsm": "\\ldots ",
    "\\dotso": "\\ldots ", "\\hdots": "\\ldots ", "\\textellipsis": "\\ldots ", "\\ldots": "\\ldots ",
    "\\varphi": "\\phi ", "\\varepsilon": "\\epsilon ", "\\vartheta": "\\theta ", "\\varrho": "\\rho ",
    "\\varsigma": "\\sigma ", "\\varkappa": "\\kappa ", "\\ell": "l ", "\\imath": "i ", "\\jmath": "j ",
    "\\tg": "\\tan ", "\\ctg": "\\cot ", "\\cotg": "\\cot ", "\\arctg": "\\arctan ", "\\arcctg": "\\arccot ",
    "\\cosec": "\\csc ", "\\lg": "\\log_{10}", "\\rightarrow": "\\to ", "\\longrightarrow": "\\to ",
    "\\bar": "\\overline", "\\implies": "\\Rightarrow ", "\\Longrightarrow": "\\Rightarrow ",
}  # fmt: skip


def one_character(text: str) -> str:
    """Write every character in one way: full-width and mathematical letters as plain ones, signs as commands."""
    if text.isascii():
        return text
    text = _SUPERSCRIPT.sub(lambda match: "^{" + match[0].translate(_SUPERSCRIPTS) + "}", text.translate(_BEFORE))
    text = _SUBSCRIPT.sub(lambda match: "_{" + match[0].translate(_SUBSCRIPTS) + "}", text)
    text = _OVERLINED.sub(lambda match: "\\overline{" + match[0][::2] + "}", text)
    return unicodedata.normalize("NFKC", text).translate(_AFTER)
