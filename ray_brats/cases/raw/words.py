"""The words of series: how four makers and many people call what a series is, as tables.

A name is first *spaced*: in lower case, every mark a blank, and words apart that people write as
one (`sT1W_3D_TFE`, `T1post`, `AxT2Flair`). Patterns are of spaced names and begin and end at words.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

from ray_brats.cases import spelling

Rules = Sequence[tuple[str, str]]
"""Pairs of what a series is and the pattern of names that say so; the first that fits counts."""

_SPACED: Rules = (
    # BIDS: of whom, when and where is not of what.
    ("", r"(?:(?<=/)|\A)sub-[a-z0-9]+_(ses-[a-z0-9]+_)?"),
    (" moved ", r"(?<![a-z0-9])space-(t[12]w?|flair)_"),
    (" wwo ", r"\bw ?[/&+]? ?(and )?w ?/? ?o\b"),
    (" without ", r"\bw ?/ ?o\b"),
    (" with ", r"\bw ?/ ?(?=[a-z])"),
    (" with c ", r"\bw ?/ ?\Z"),
    (" without c ", r"(?<![a-z0-9])c-(?![a-z0-9])"),
    (" star ", r"\*"),
    (r" \1d ", r"(?<![a-z0-9])([23])d"),
    (" ", r"(?-i:(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z]))"),
    (" ", r"[^a-z0-9+]+"),
    (" + ", r"\+"),
    (r"\1 \2", r"\b(ax|axial|sag|cor|tra|ce|gd|km|fs|iso|cube|spc|co|e|s|d|v)(t[12](?!\d)|flair)"),
    (r"\1 ", r"\b(t[12])(?=[a-z])"),
    (r"\1 to ", r"\b(t[12]|flair) ?2 ?(?=(?:t[12]|flair)\b)"),
    (r"\1 ", r"\b(flair|pre|post|non)(?=(sag|cor|tra|ax|gd|gad|km|reg|con)[a-z]*\b)"),
    # What an image was moved to is not what it shows.
    (r"\1 moved", r"\b((?:t[12]|flair)\b.*) (?:to|onto|reg|in) (?:t[12]|flair|mni|atlas|sri)\b.*"),
)
"""What takes the place of a pattern, one after the other, capital letters or not."""

NOTHING: Rules = (
    ("a localiser", r"(3|three|tri) ?pl(ane)?( loc\w*)?|loc(ator)?|local[iy][sz]\w*|scout\w*"),
    ("a localiser", r"survey|plan scan|smart ?brain|aah(ead)?|pilot|fast ?view|auto ?align"),
    ("a calibration", r"cal(ibration)?|\w*ref ?scan|ref|speeder|(asset|array) cal\w*|coil \w+"),
    ("a calibration", r"shim\w*|noise|phantom|b1 ?(map)?|sense ref\w*"),
    ("a field map", r"(gre )?field ?map\w*|fmap|b0 ?map|topup"),
    ("spectroscopy", r"spectro\w*|mrs|mrsi|svs?|csi|press|probe( p)?|steam|naa|cho|lactate"),
    ("spine or neck", r"spine|spinal|cervical|thoracic|lumbar|hws|bws|lws|neck|hals"),
    ("another part of the body", r"prostat\w*|breast|knee|liver|abdom\w*|pelvi\w*|heart|cardiac"),
    ("another part of the body", r"chest|shoulder|hip|wrist|ankle|thorax|kidneys?|mrcp"),
    ("a part of the head", r"orbits?|pituitary|hypophys\w*|sella|iacs?|iam|cpa|inner ear|sinus"),
    ("diffusion", r"s?dw(i\w*)?|diff(usion)?\w*|(exp|n|d|e)? ?adc\w*|apparent|trace\w*|s?dti|dki"),
    ("diffusion", r"tensor|(col ?)?fa(?! ?\d)|fract(ional)?( an\w*)?|hardi|noddi|ivim|resolve"),
    ("diffusion", r"average dc|b ?\d{3,4}|\d{3,4} ?b|isotropic (image|dwi)|m?ddw\w*|low ?b|eddy"),
    ("perfusion", r"perf\w*|dsc|dce|pwi|[ns]?(r|rel)? ?cb[vf]\w*|mtt|ttp|t ?max|p?c? ?asl|casl"),
    ("perfusion", r"gbp|pbp|k ?trans|dyn\w*|twist|permeab\w*|leakage|time to \w+|neg\w* enh\w*"),
    ("functional", r"bold|f ?mri|rs ?fmri|rest(ing)?( state)?|task|epi|ep[23]d|activation"),
    (
        "angiography",
        r"mr ?[av]|tof|angio\w*|veno(us|gra\w*)|inhance|(?<!ac )pca?|trance|time of flight",
    ),
    ("angiography", r"tricks|phase contrast|cemra|carotid\w*|willis|cow|vessel\w*|b?trak"),
    ("susceptibility", r"s?swi\w*|swan|suscept\w*|qsm|fsbb|swp|pha(se)?|mag(nitude)?( images?)?"),
    ("susceptibility", r"t2 ?star\w*|t2 s|r2 ?(star|s)?|haemo\w*|hemo\w*|heme"),
    ("a map", r"([tr][12]|pd)( w)? ?map\w*|map\w*|molli|relax\w*|mdme|qalas|magic|synth?\w*"),
    ("a map", r"inv ?[12]|mp2 ?rage (t1 )?images|quant\w*|t1 rho"),
    ("a projection", r"mip|min ?ip|m ip|mpv|pjn|proj\w*|col|collaps\w*|vrt?|rotat\w*"),
    (
        "a reformat",
        r"(?<!t1 )(?<!t1 w )mprs?|reform\w*|rfmt|curved|cpr|3d saved?|rang\w*|compos\w*",
    ),
    ("a subtraction", r"sub(?! ?\d)|subtract\w*|subs|subtr|d t1|delta \w+"),
    ("a screenshot", r"screen\w*|snap ?shot|capture\w*|key ?image\w*|exam ?card|sec cap\w*"),
    (
        "a screenshot",
        r"not diagnostic|processed images?|results?|secondary|protocol( page)?|report",
    ),
    ("a STIR", r"stir"),
    ("a steady-state image", r"ciss|fiesta|tru ?fi\w*|true ?fisp|b ?tfe|b ?ffe|balanced|dess|psif"),
    ("made by a program", r"reference|brats( space)?|sri ?24|mni ?152\w*|template|skull ?strip\w*"),
    ("made by a program", r"stripped|hd ?bet|bet|aparc\w*|aseg|wm|gm|csf|parcel\w*"),
)
"""What is none of the four, by its name."""
GRADIENT_ECHO = r"gre|mpgr|merge|medic|ffe|field echo|fgre|[mf][el][23]d|flash"
"""A T2* where no name says T1, whether or not it says T2."""
TYPES: Rules = (
    ("a localiser", r"localizer"),
    ("a projection", r"projection image|mip|min ?ip|vrt"),
    ("a reformat", r"mpr|reformatted|resample\w*|cpr"),
    ("diffusion", r"diffusion|adc|trace\w*|fa|tensor\w*|dwi"),
    ("perfusion", r"perfusion|cbf|cbv|mtt|ttp|tmax|asl"),
    ("a subtraction", r"subtract\w*"),
    ("susceptibility", r"swi|phase|p|t2 star"),
    ("a map", r"map"),
    ("a screenshot", r"screen\w*|csa report|fused"),
    ("spectroscopy", r"spectro\w*"),
    ("an image of fat", r"fat"),
)
"""What is none of the four, by the values of its image type from the third on."""

T1 = r"t1|mp ?rage\w*|me ?mp ?rage|mp2 ?rage|bravo|f?spgr|3d tfe|ir tfe|vibe|thrive"
T2 = r"t2|frfse"
FLAIR = r"flair\w*|dark ?fluid|da fl|t2 f|fluid atten\w*|spc ?ir"
EITHER_T2 = r"tirm"
"""Turbo inversion recovery: with T2 a FLAIR or a STIR, which its inversion time tells."""
PROTON_DENSITY = r"pd( ?w)?|proton( density)?|dp"
_LATER = r"(?! ?(op|surg|proc|rt|radi|chemo|treat|ther|fix|er|mort|scan))"
"""What stands behind `pre` and `post` where they are of a treatment, or of a place."""
_OTHERWISE = r"(?! ?(fat|fs|sat|spair|spir|flow|sense|asset|moco))"
_AGENT = r"gd|gad\w*|km|cont(r|rast\w*)?"
CONTRAST = (
    rf"{_AGENT}|ce|kontrast(?!s)\w*|dotarem|magnevist|prohance|multihance|clariscan|omniscan|"
    rf"vueway|elucirem|c \+|\+ (c|ce|k|{_AGENT})|\+\Z|post{_LATER}\w*|enh(anced)?|mdc|civ|inj\w*|"
    r"with c|(?<=t1 )c|(?<=t1 w )c"
)
NO_CONTRAST = (
    rf"(without|wo|ohne|sans|senza|sin){_OTHERWISE}( c| {_AGENT})?|"
    rf"pre{_LATER}(reg|c| ?con| ?{_AGENT})?|(no|non) ?(c|ce|con|enh\w*|{_AGENT})|"
    r"nativ\w*|unenh\w*|nc|kontrasts.z|ce (none|no|pre|without)|(?<=t1 )n"
)
SECOND_ECHO = r"e(cho)? ?2"
"""Of a series that is of proton density and of T2."""
BOTH = r"wwo|with and without|pre (and |und |et |\+ )?post"
"""What says that both were done: of an examination, and of none of its series."""
MADE = (
    r"\w*reg|registered|coreg\w*|moved|warped|re ?sampled|resliced|n[34]\w*|denoised|deface\w*|"
    r"bias corr\w*|avg|(?<!air )(?<!dl )recon\w*(?! dl)|brain\Z"
)
"""What a program made of a scan, which it may stand in for where that is not there."""


@functools.lru_cache(4096)
def spaced(name: str) -> str:
    """A name in lower case with its words apart."""
    for words, pattern in _SPACED:
        name = re.sub(f"(?i){pattern}", words, name)
    return " ".join(name.lower().split())


@functools.lru_cache(256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])")


def found(pattern: str, spaced_name: str) -> str:
    """The words of a spaced name that a pattern means, or "" where it has none."""
    match = _compiled(pattern).search(spaced_name)
    return match[0].strip() if match else ""


def first(rules: Rules, spaced_name: str) -> tuple[str, str] | None:
    """What the first rule that fits says a name means, and the words that say so."""
    hits = ((meaning, found(pattern, spaced_name)) for meaning, pattern in rules)
    return next(((meaning, words) for meaning, words in hits if words), None)


def mask_word(file_name: str) -> str:
    """The word of a file's name that says it is made of scans and is none, or ""."""
    words = spelling.words_of(file_name)
    return next((word for word in words if spelling.NOT_SCANS.search(word)), "")


def weights_in(spaced_name: str) -> Mapping[str, str]:
    """T1, T2 and FLAIR as far as a name says them, each with its word.

    A `T2 FLAIR` is a FLAIR and no T2; a `T1 FLAIR`, which darkens fluid on T1, is a T1.
    """
    pairs = (("t1", T1), ("t2", T2), ("flair", FLAIR))
    said = {weight: found(pattern, spaced_name) for weight, pattern in pairs}
    if said["flair"]:
        left = "t1" if said["t1"] and not said["t2"] else "flair"
        return {left: said[left]}
    if found(EITHER_T2, spaced_name):
        said["t2"] = ""
    return {weight: word for weight, word in said.items() if word}
