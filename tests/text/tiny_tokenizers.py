"""Small tokenizers of every kind that published text towers use, written to folders as on the hub.

They are built by hand instead of trained, so that every process makes the same ones. Tests use them, and so do both
sides of the comparison with published packages.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

_WORDS = """
    a photo of the two small brown dogs running quickly through green grass kitten they will not diagram cat dog and in
    on with red blue car street night man woman child snow water drawing sunset beach tree house old young is at by
    drawn sketch painting holding ball white black sky mountain city bird fish horse an close up low quality best
"""
WORDS = _WORDS.split()
LETTERS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'\"()-:;&#$%@*+/=<>_"
    "éüñçßαβγдежзийклмнопрстуขคงจ日本語漢字한국"
)
LANGUAGES = ("eng_Latn", "fra_Latn", "tha_Thai", "zho_Hans")
FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>"]
SPACE = "▁"


def write(folder: Path, tokenizer: Tokenizer | None, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def special(tokenizer: Tokenizer, *tokens: str | AddedToken) -> None:
    tokenizer.add_special_tokens(
        [t if isinstance(t, AddedToken) else AddedToken(t, special=True, normalized=False) for t in tokens]
    )


def charsmap() -> bytes:
    """Return sentencepiece's table of replacements (`nmt_nfkc`)."""
    import sentencepiece

    proto = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_model_proto()
    return fields(fields(proto)[3])[2]


def fields(message: bytes) -> dict[int, bytes]:
    """Return the fields of a protocol buffer that contain bytes, by number."""
    found, at = {}, 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 2:
            length = varint()
            found[key >> 3] = message[at : at + length]
            at += length
        elif key & 7 == 0:
            varint()
        else:
            at += 4 if key & 7 == 5 else 8
    return found


def merges_of(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Make tokens and merges that build each word from its left end."""
    tokens, merges = [], []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    return tokens, merges


def byte_symbols() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def unigram(first: list[str], last: list[str] = (), unk_id: int = 3) -> models.Unigram:  # type: ignore[assignment]
    pieces = [(token, 0.0) for token in first]
    words = [SPACE + word for word in WORDS] + ["ing", "ed", "s", "ly", SPACE]
    pieces += [(word, -3.0 - 0.01 * i) for i, word in enumerate(words)]
    pieces += [(letter, -9.0 - 0.01 * i) for i, letter in enumerate(LETTERS) if letter not in words]
    return models.Unigram(pieces + [(token, 0.0) for token in last], unk_id, byte_fallback=False)


def sentence_normalizer() -> Any:
    steps = [
        normalizers.Precompiled(charsmap()),
        normalizers.Strip(left=False, right=True),
        normalizers.Replace(Regex(" {2,}"), SPACE),
    ]
    return normalizers.Sequence(steps)


def metaspace() -> Any:
    return pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)


def bert_vocabulary() -> list[str]:
    letters = list(dict.fromkeys(LETTERS))
    tokens = [
        *("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        *letters,
        *("##" + letter for letter in letters),
        *(word for word in WORDS if len(word) > 1),
        *("##ing", "##ed", "##ly"),
    ]
    return list(dict.fromkeys(tokens))


def bert_tokenizer(lowercase: bool = True) -> Tokenizer:
    ids = {token: i for i, token in enumerate(bert_vocabulary())}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    special(tokenizer, "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    return tokenizer


def bert(folder: Path) -> Path:
    return write(folder, bert_tokenizer(), tokenizer_class="BertTokenizer", do_lower_case=True)


def bert_cased_by_its_settings(folder: Path) -> Path:
    return write(folder, bert_tokenizer(), tokenizer_class="BertTokenizerFast", do_lower_case=False)


def bert_with_config_json_only(folder: Path) -> Path:
    write(folder, bert_tokenizer())
    (folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    return folder


def vocab_txt(folder: Path) -> Path:
    write(folder, None, tokenizer_class="BertTokenizer", do_lower_case=True)
    (folder / "vocab.txt").write_text("\n".join(bert_vocabulary()) + "\n", encoding="utf-8")
    return folder


def byte_level_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokens, merges = merges_of(["Ġ" + word for word in WORDS] + WORDS[:20])
    every = [*FAIRSEQ, *byte_symbols(), *tokens, "<mask>"]
    return {token: i for i, token in enumerate(dict.fromkeys(every))}, merges


def roberta(folder: Path) -> Path:
    ids, merges = byte_level_vocabulary()
    tokenizer = Tokenizer(models.BPE(ids, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    special(tokenizer, *FAIRSEQ, AddedToken("<mask>", lstrip=True, normalized=False))
    return write(folder, tokenizer, tokenizer_class="RobertaTokenizer", add_prefix_space=False)


def vocab_json_and_merges(folder: Path) -> Path:
    ids, merges = byte_level_vocabulary()
    mask = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    write(folder, None, tokenizer_class="RobertaTokenizer", mask_token={"__type": "AddedToken", **mask})
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def xlm_roberta(folder: Path) -> Path:
    tokenizer = Tokenizer(unigram(FAIRSEQ, ["<mask>"]))
    tokenizer.normalizer = normalizers.Precompiled(charsmap())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special(tokenizer, *FAIRSEQ, AddedToken("<mask>", lstrip=True, normalized=False))
    return write(folder, tokenizer, tokenizer_class="XLMRobertaTokenizer")


def siglip_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(unigram(["<pad>", "</s>", "<unk>"], unk_id=2))
    tokenizer.normalizer = sentence_normalizer()
    tokenizer.pre_tokenizer = metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special(tokenizer, "<pad>", "</s>", "<unk>")
    return tokenizer


def siglip(folder: Path) -> Path:
    """Write a tokenizer as in SigLIP's repositories: T5's, padded with the end of text."""
    tokens = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return write(
        folder, siglip_tokenizer(), tokenizer_class="T5Tokenizer", extra_ids=0, legacy=False, **tokens
    )


def t5(folder: Path) -> Path:
    """Write a tokenizer with settings in the older files."""
    write(folder, siglip_tokenizer(), tokenizer_class="T5Tokenizer", extra_ids=0)
    tokens = {"eos_token": "</s>", "unk_token": {"content": "<unk>"}, "pad_token": "<pad>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens), encoding="utf-8")
    return folder


def gemma_tokenizer() -> Tokenizer:
    tokens, merges = merges_of(WORDS + [SPACE + word for word in WORDS])
    letters = [*dict.fromkeys(LETTERS), SPACE]
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    ids = {token: i for i, token in enumerate(dict.fromkeys([*first, *letters, *tokens]))}
    model = models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    special(tokenizer, "<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    return tokenizer


GEMMA_TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
GEMMA = {**GEMMA_TOKENS, "add_bos_token": False, "add_eos_token": True}


def siglip2(folder: Path) -> Path:
    """Write a tokenizer as in SigLIP 2's repositories: Gemma's, padded on the right."""
    return write(folder, gemma_tokenizer(), tokenizer_class="GemmaTokenizer", padding_side="right", **GEMMA)


def siglip2_of_its_own_class(folder: Path) -> Path:
    return write(folder, gemma_tokenizer(), tokenizer_class="Siglip2Tokenizer", padding_side="right", **GEMMA)


def gemma_without_a_side(folder: Path) -> Path:
    return write(folder, gemma_tokenizer(), tokenizer_class="GemmaTokenizer", **GEMMA)


def nllb(folder: Path) -> Path:
    tokens, merges = merges_of([SPACE + word for word in WORDS])
    ids = {
        token: i
        for i, token in enumerate(dict.fromkeys([*FAIRSEQ, *LETTERS, SPACE, *tokens, *LANGUAGES, "<mask>"]))
    }
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(charsmap()), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(  # as in an old file
        single="$A </s> eng_Latn", special_tokens=[("</s>", 2), ("eng_Latn", ids["eng_Latn"])]
    )
    special(tokenizer, *FAIRSEQ, *LANGUAGES, AddedToken("<mask>", lstrip=True, normalized=False))
    return write(
        folder,
        tokenizer,
        tokenizer_class="NllbTokenizer",
        additional_special_tokens=list(LANGUAGES),
        legacy_behaviour=False,
    )


def fast_tokenizer_padded_on_the_left(folder: Path) -> Path:
    """Write a tokenizer of no special kind, with unusual settings and an added token."""
    tokenizer = bert_tokenizer(lowercase=False)
    tokenizer.add_tokens([AddedToken("xylophone", normalized=True)])
    added = {
        str(i): {
            "content": token.content,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "normalized": token.normalized,
            "special": token.special,
        }
        for i, token in tokenizer.get_added_tokens_decoder().items()
    }
    return write(
        folder,
        tokenizer,
        tokenizer_class="PreTrainedTokenizerFast",
        pad_token="[PAD]",
        unk_token="[UNK]",
        padding_side="left",
        truncation_side="left",
        added_tokens_decoder=added,
    )


TOKENIZERS: dict[str, Callable[[Path], Path]] = {
    make.__name__: make
    for make in (
        bert,
        bert_cased_by_its_settings,
        bert_with_config_json_only,
        vocab_txt,
        roberta,
        vocab_json_and_merges,
        xlm_roberta,
        siglip,
        t5,
        siglip2,
        siglip2_of_its_own_class,
        gemma_without_a_side,
        nllb,
        fast_tokenizer_padded_on_the_left,
    )
}


def make_all(folder: Path) -> dict[str, Path]:
    """Write every tokenizer to a folder with its name."""
    return {name: make(folder / name) for name, make in TOKENIZERS.items()}
