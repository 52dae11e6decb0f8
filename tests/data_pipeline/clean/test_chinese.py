"""Chinese: what English rules would kill stays, what is bad Chinese goes."""

import pytest

from tests.data_pipeline.clean.steps import clean, reason

NEWS = (
    "昨天上午，市政府举行了新闻发布会，介绍今年城市绿化工作的进展情况。\n"
    "据介绍，全市新建公园十二处，新增绿地面积约三百公顷，比去年同期增长百分之八。\n"
    "不少市民表示，家门口的小公园让散步和锻炼都方便了许多，孩子们也多了玩耍的地方。\n"
    "相关负责人说，下一步将重点改善老旧小区的环境，并听取居民的意见和建议。"
)
ZITHER = "白居易\n今夜調琴忽有情，欲彈惆悵憶崔卿。\n何人解愛中徽上，秋思頭邊八九聲。\n夜調琴憶崔少卿"
POEM = "靜夜思\n床前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉。"


@pytest.mark.parametrize("text", [NEWS, POEM, ZITHER])
def test_chinese_passes_its_own_rules_and_would_not_pass_those_for_english(text):
    assert reason(text, "chinese") is None
    assert reason(text, "chinese", "zh", languages=["zh"]) is None
    assert reason(text, "gopher_quality") is not None
    assert reason(text, "c4") is not None
    for step in ("gopher_quality", "c4", "fineweb", "repetition"):
        assert clean(text, step, "zh", languages=["en"]) == text


@pytest.mark.parametrize(
    ("text", "told", "expected"),
    [
        ("This is an English text, with a few 汉字 in it.", {}, "Han characters are less than 0.5"),
        (
            "汉字 abc 汉字汉",
            {"min_han": 0.9, "min_punctuation": None, "min_ended_lines": None},
            "Han characters are less than 0.9",
        ),
        ("我们使用 PyTorch 和 CUDA 来训练 Transformer 模型，与 baseline 相比，MMLU 和 HellaSwag 都有提升。", {}, None),
        ("手机电脑平板耳机音箱键盘鼠标显示器打印机路由器", {}, "punctuation is less than 0.005"),
        ("好！！！坏人？？？行走。。。来，，，", {"min_han": 0.1}, "punctuation is more than 0.35"),
        (
            "首页新闻体育财经\n娱乐科技汽车房产\n关于我们，联系方式说明",
            {},
            "less than 0.12 of the lines end with punctuation",
        ),
        ("哈哈哈哈哈哈哈哈，真是太好笑的一件事情。", {}, "one character is more than 0.2"),
        ("买房卖房找我们，" * 4 + "一家老店的广告还有别的文字在这里说些什么呢。", {}, "in one 3-gram"),
        (ZITHER, {"max_top_ngram": {3: 0.133}}, "in one 3-gram"),
        (ZITHER, {"max_top_ngram": {3: 0.134}}, None),
        (NEWS + NEWS[:90], {}, "in duplicate 8-grams"),
        (NEWS + "锟斤拷锟斤拷", {}, "broken beyond repair"),
        (NEWS + "锟斤拷", {"broken": False}, None),
    ],
)
def test_bad_chinese_goes(text, told, expected):
    found = reason(text, "chinese", **told)
    assert found == expected if expected is None or found is None else found.endswith(expected)


def test_neither_traditional_nor_simplified_characters_change():
    for text in (POEM, "静夜思\n床前明月光，疑是地上霜。"):
        assert clean(text, "unicode") == clean(text, "encoding") == clean(text, "control") == text
