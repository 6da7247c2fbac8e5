"""The small domain of the demo checkpoint: sentences of home, travel, shopping and appointments in two languages.

A sentence is a template with `{slot}` gaps; slots may contain further slots. Which split a sentence belongs to is a
function of its normalised text alone, so training, development and test sentences can never overlap.
"""

import hashlib
import random
import re
import unicodedata
from typing import Literal

Language = Literal["English", "Chinese"]
Split = Literal["train", "dev", "test"]
LANGUAGES: tuple[Language, ...] = ("English", "Chinese")


def _listed(words: str) -> list[str]:
    return words.split()


_ONES = _listed("one two three four five six seven eight nine")
_TEENS = _listed("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
_TENS = _listed("twenty thirty forty fifty sixty seventy eighty ninety")

ENGLISH: dict[str, list[str]] = {
    "digit": ["zero", *_ONES],
    "hour": [*_ONES, "ten", "eleven", "twelve"],
    "number": [*_ONES, *_TEENS, *_TENS, *(f"{ten}-{one}" for ten in _TENS for one in _ONES)],
    "few": [*_ONES[1:], "ten", "twelve", "fifteen", "twenty"],
    "minute": ["ten", "fifteen", "twenty", "twenty-five", "thirty", "forty", "forty-five", "fifty"],
    "clock": ["{hour} o'clock", "half past {hour}", "quarter past {hour}", "quarter to {hour}", "{hour} {minute}"],
    "day": _listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "month": _listed("January February March April May June July August September October November December"),
    "when": ["today", "tomorrow", "on {day}", "on {day} morning", "on {day} evening", "at {clock}", "in {month}"],
    "colour": _listed("red green blue yellow black white orange purple brown pink"),
    "device": _listed("light lamp fan heater radio television computer oven alarm music"),
    "opening": _listed("door window garage box curtain bag"),
    "object": _listed("book cup key phone chair table bottle pen hat coat ball letter ticket camera clock picture"),
    "objects": _listed("books cups keys chairs bottles pens apples bananas letters tickets"),
    "room": ["kitchen", "bedroom", "bathroom", "garden", "office", "garage", "hall", "living room", "library"],
    "place": _listed("station airport hospital hotel market museum park bank restaurant theater school river"),
    "city": _listed("London Paris Berlin Boston Chicago Tokyo Madrid Sydney"),
    "name": _listed("Anna David Emma Peter Maria Jack Susan Thomas Lucy Robert"),
    "food": _listed("coffee tea water milk bread rice soup cake cheese chicken"),
    "adjective": _listed("big small old new hot cold clean empty ready"),
    "switch": ["on", "off"],
    "open": ["Open", "Close", "Lock"],
    "fetch": ["Find", "Bring", "Take", "Move", "Clean"],
    "weather": _listed("sunny rainy windy cloudy cold warm"),
    "vehicle": _listed("train bus plane car boat"),
}

ENGLISH_TEMPLATES: list[str] = [
    "Turn {switch} the {device} in the {room}.",
    "Turn {switch} the {device} in the {room}.",
    "Please turn {switch} the {colour} {device}.",
    "{open} the {opening} in the {room}.",
    "Please {fetch} the {colour} {object} from the {room}.",
    "{fetch} the {adjective} {object} now.",
    "Put the {object} on the {colour} {object}.",
    "Put the {colour} {object} in the {opening}.",
    "Where is my {colour} {object}?",
    "Where is the {adjective} {object}?",
    "Where is the {place} in {city}?",
    "Is the {object} {colour} or {colour}?",
    "Is the {opening} in the {room} open?",
    "The {object} in the {room} is {colour}.",
    "The {room} is {adjective} and the {opening} is {colour}.",
    "How many {objects} are in the {room}?",
    "There are {number} {objects} in the {room}.",
    "I have {number} {colour} {objects}.",
    "We need {few} {objects} and {few} {objects}.",
    "{name} has {few} {colour} {objects}.",
    "My number is {digit} {digit} {digit} {digit}.",
    "My number is {digit} {digit} {digit} {digit} {digit} {digit}.",
    "Call {digit} {digit} {digit} {digit} {digit}.",
    "The answer is {number}.",
    "Room {number} is on the left.",
    "Set the alarm at {clock}.",
    "Wake me up at {clock}.",
    "The {vehicle} to {city} leaves at {clock}.",
    "The {vehicle} from {city} is here at {clock}.",
    "What time is the {vehicle} to {city}?",
    "Meet {name} at the {place} at {clock}.",
    "Meet me at the {place} {when}.",
    "Call {name} {when}.",
    "I will see {name} {when}.",
    "{name} goes to {city} {when}.",
    "{name} and {name} live in {city}.",
    "Can you send the {object} to {name}?",
    "Go to the {place} with {name}.",
    "Take the {vehicle} to the {place}.",
    "How much is the {colour} {object}?",
    "Buy some {food} and {food} {when}.",
    "I would like some {food}, please.",
    "Do you want {food} or {food}?",
    "{name} wants {food} with {food}.",
    "It is {weather} in {city} today.",
    "Will it be {weather} in {city} on {day}?",
    "My birthday is in {month}.",
    "The {place} is closed on {day} and {day}.",
    "The {place} opens at {clock}.",
    "Stop the music in {number} minutes.",
    "Wait {number} minutes, please.",
    "Good morning, {name}.",
    "Thank you, {name}.",
    "Hello, this is {name} from {city}.",
    "Who is at the {opening}?",
    "Play the radio in the {room}.",
    "Yes, the {device} is {switch}.",
    "No, it is not {colour}.",
]

_CN_DIGITS = list("一二三四五六七八九")

CHINESE: dict[str, list[str]] = {
    "digit": ["零", *_CN_DIGITS],
    "hour": ["一", "两", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二"],
    "number": [
        *_CN_DIGITS[2:],
        "十",
        *(f"十{one}" for one in _CN_DIGITS),
        *(f"{ten}十{one}" for ten in _CN_DIGITS[1:] for one in ["", *_CN_DIGITS]),
    ],
    "few": ["两", "三", "四", "五", "六", "七", "八", "九", "十", "十二", "二十"],
    "minute": ["十分", "十五分", "二十分", "三十分", "四十五分", "五十分"],
    "clock": ["{hour}点", "{hour}点半", "{hour}点{minute}"],
    "part": ["早上", "上午", "下午", "晚上"],
    "day": [f"星期{day}" for day in "一二三四五六天"],
    "month": [f"{month}月" for month in _listed("一 二 三 四 五 六 七 八 九 十 十一 十二")],
    "when": ["今天", "明天", "{day}", "今天{part}", "明天{part}", "{day}{part}", "{part}{clock}"],
    "colour": _listed("红色 绿色 蓝色 黄色 黑色 白色 紫色 灰色"),
    "device": _listed("灯 电灯 风扇 空调 收音机 电视 电脑 闹钟 音乐 手机"),
    "opening": _listed("门 窗户 箱子 冰箱 窗帘"),
    "object": _listed("书 杯子 钥匙 电话 椅子 桌子 瓶子 铅笔 帽子 大衣 球 信 照片 雨伞"),
    "room": _listed("厨房 卧室 客厅 花园 办公室 车库 图书馆 教室"),
    "place": _listed("火车站 机场 医院 酒店 市场 公园 银行 饭店 学校 博物馆"),
    "city": _listed("北京 上海 广州 南京 香港 成都 东京 伦敦"),
    "name": _listed("小明 小红 李华 王芳 张伟 陈静 刘洋"),
    "food": _listed("咖啡 茶 水 牛奶 面包 米饭 汤 蛋糕 苹果 鸡肉"),
    "adjective": _listed("大 小 旧 新"),
    "switch": ["打开", "关上"],
    "fetch": ["找到", "拿来", "买"],
    "weather": _listed("下雨 下雪 很冷 很热 晴天"),
    "vehicle": _listed("火车 飞机 汽车 船"),
}

CHINESE_TEMPLATES: list[str] = [
    "请{switch}{room}的{device}。",
    "请{switch}{room}的{device}。",
    "{switch}{room}的{opening}。",
    "请{switch}{colour}的{device}。",
    "请{fetch}{colour}的{object}。",
    "把{colour}的{object}放在{room}。",
    "把{object}放在{object}上。",
    "我的{colour}{object}在哪里？",
    "{adjective}的{object}在哪里？",
    "{place}在哪里？",
    "{city}的{place}在哪里？",
    "{object}是{colour}还是{colour}？",
    "{room}的{object}是{colour}的。",
    "{room}有{few}个{object}。",
    "{room}里有几个{object}？",
    "我有{few}个{colour}的{object}。",
    "{name}有{few}个{adjective}{object}。",
    "我的号码是{digit}{digit}{digit}{digit}。",
    "我的号码是{digit}{digit}{digit}{digit}{digit}{digit}。",
    "请打电话{digit}{digit}{digit}{digit}{digit}。",
    "答案是{number}。",
    "请等{number}分钟。",
    "{number}号房间在左边。",
    "现在是{part}{clock}。",
    "{part}{clock}叫我起床。",
    "去{city}的{vehicle}{clock}出发。",
    "从{city}来的{vehicle}{clock}到。",
    "去{city}的{vehicle}几点出发？",
    "{when}在{place}见{name}。",
    "{name}{when}去{city}。",
    "{name}和{name}住在{city}。",
    "{when}给{name}打电话。",
    "我{when}要去{place}。",
    "请把{object}给{name}。",
    "我们坐{vehicle}去{place}。",
    "{colour}的{object}多少钱？",
    "我要买{food}和{food}。",
    "{name}想喝{food}。",
    "你要{food}还是{food}？",
    "{city}今天{weather}。",
    "明天{city}会{weather}吗？",
    "我的生日在{month}。",
    "{place}{day}不开门。",
    "{place}{clock}开门。",
    "{name}，早上好。",
    "谢谢你，{name}。",
    "你好，我是{name}。",
    "{room}很{adjective}。",
    "是的，{device}是{colour}的。",
]

_DOMAIN: dict[Language, tuple[list[str], dict[str, list[str]]]] = {
    "English": (ENGLISH_TEMPLATES, ENGLISH),
    "Chinese": (CHINESE_TEMPLATES, CHINESE),
}
_SLOT = re.compile(r"\{(\w+)\}")


def sentence(language: Language, rng: random.Random) -> str:
    """One random sentence as the model should write it: capitals, punctuation, numbers as words."""
    templates, slots = _DOMAIN[language]
    text = rng.choice(templates)
    while _SLOT.search(text):
        text = _SLOT.sub(lambda match: rng.choice(slots[match[1]]), text)
    return re.sub(r"^(Please) ([A-Z])", lambda match: f"{match[1]} {match[2].lower()}", text)


def single_words(language: Language) -> list[str]:
    """Every plain word of the domain as an utterance of its own, e.g. `Kitchen.` or `厨房。`."""
    _, slots = _DOMAIN[language]
    words = sorted({word for fillers in slots.values() for word in fillers if "{" not in word})
    if language == "English":
        return [f"{word[0].upper()}{word[1:]}." for word in [*words, "yes", "no", "stop", "hello", "please"]]
    return [f"{word}。" for word in [*words, "你好", "谢谢", "是的", "现在"]]


def vocabulary(language: Language) -> list[str]:
    """All normalised words (English) or characters (Chinese) that a sentence of the domain can contain."""
    templates, slots = _DOMAIN[language]
    texts = [*(_SLOT.sub(" ", text) for text in templates), *single_words(language)]
    texts += [_SLOT.sub(" ", filler) for fillers in slots.values() for filler in fillers]
    return sorted({unit for text in texts for unit in units(normalise(text), language)})


def normalise(text: str) -> str:
    """Lower case without punctuation; hyphens become spaces, apostrophes vanish (`o'clock` -> `oclock`)."""
    text = text.lower().replace("-", " ").replace("'", "")
    kept = (" " if unicodedata.category(char)[0] in "PSZ" else char for char in text)
    return " ".join("".join(kept).split())


def units(normalised: str, language: Language) -> list[str]:
    """What error rates count: words in English, characters in Chinese."""
    return normalised.split() if language == "English" else list(normalised.replace(" ", ""))


def split_of(text: str) -> Split:
    """The split that a sentence belongs to: 6 % test, 2 % dev, the rest train, by a hash of its normalised text."""
    bucket = int.from_bytes(hashlib.sha256(normalise(text).encode()).digest()[:4], "big") % 100
    return "test" if bucket < 6 else "dev" if bucket < 8 else "train"


def sentences(language: Language, split: Split, count: int, seed: int) -> list[str]:
    """`count` sentences of one split; distinct in dev and test, while training may repeat the likely ones."""
    rng = random.Random(f"{language}/{split}/{seed}")
    found: list[str] = []
    seen: set[str] = set()
    while len(found) < count:
        text = sentence(language, rng)
        if split_of(text) != split or (split != "train" and normalise(text) in seen):
            continue
        seen.add(normalise(text))
        found.append(text)
    return found


def join(texts: list[str], language: Language) -> str:
    """Sentences spoken one after the other: joined by a space in English, by nothing in Chinese."""
    return (" " if language == "English" else "").join(texts)
