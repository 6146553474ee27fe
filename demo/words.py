"""The word tables of the demo corpus: names, animals, colours, days, facts, words to spell.

Data only. Knows nothing about dialogues, splits or tokens. Words that other skills use as well are always
part of the spelling lessons; the words of `EXTRA_WORDS` may be held out, so nothing else may use them.
"""

from __future__ import annotations


def listed(text: str, separator: str | None = None) -> tuple[str, ...]:
    """The items of a text, for tables that read better without a quote around each word."""
    return tuple(" ".join(item.split()) for item in text.split(separator) if item.strip())


NAMES = listed(
    "Bo Ada Tim Mia Leo Zoe Sam Eva Max Ivy Ben Lily Tom Anna Jack Nora Finn Ruby Otto Elsa Noah Emma Liam "
    "Christopher Alexander Elizabeth Victoria Michael William Charlotte Sebastian Katherine Jonathan Matthew "
    "Samuel Joseph Daniel David Thomas Robert Richard Charles Patrick George Henry Edward Maria Laura Julia "
    "Sophie Hannah Claire Martin Andrew Simon Stephen Philip Yuki Chen Priya Fatima Ahmed Ivan Pierre Lars "
    "Olga Hugo Rosa Paul Sara Omar Lena Kai Nina Carl Vera Amir Maya Erik Dora Luis Alice Bob Peter Jane John"
)

ANIMALS = listed(
    "cat dog fox bear mouse rabbit owl duck frog horse cow pig hen sheep goat lion tiger bird fish bee snail "
    "turtle wolf monkey elephant dragon kitten puppy"
)

PEOPLE = listed(
    "robot princess prince king queen pirate witch wizard child boy girl farmer knight ghost giant"
)

PLACES = ("forest", "garden", "farm", "village", "river", "lake", "hill", "beach", "castle", "park")

THINGS = listed("ball hat book cake apple key boat kite drum flower star stone lamp shoe box bell cup coin")

COLOURS = listed("red blue green yellow orange purple pink brown black white grey")

COLOUR_OF = {
    "the sky": "blue", "grass": "green", "a banana": "yellow", "snow": "white", "the sun": "yellow",
    "blood": "red", "a tomato": "red", "a lemon": "yellow", "milk": "white", "coal": "black",
    "a frog": "green",
    "a carrot": "orange", "chocolate": "brown", "the sea": "blue", "a leaf": "green", "a strawberry": "red",
    "an elephant": "grey", "a pig": "pink", "the night": "black", "a plum": "purple", "a pumpkin": "orange",
    "an orange": "orange", "a fire truck": "red", "paper": "white", "a cucumber": "green", "wood": "brown",
    "a cloud": "white", "a cherry": "red", "a crow": "black", "a swan": "white",
}  # fmt: skip

COLOUR_MIX = {
    ("blue", "yellow"): "green", ("red", "yellow"): "orange", ("red", "blue"): "purple",
    ("red", "white"): "pink", ("black", "white"): "grey",
}  # fmt: skip

DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

MONTHS = listed("January February March April May June July August September October November December")

SEASONS = listed("spring summer autumn winter")

TENS = listed("zero ten twenty thirty forty fifty sixty seventy eighty ninety")

NUMBER_WORDS = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen"
)

OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "left": "right", "day": "night", "good": "bad",
    "fast": "slow",
    "happy": "sad", "old": "young", "open": "closed", "full": "empty", "hard": "soft", "high": "low",
    "long": "short", "light": "dark", "wet": "dry", "rich": "poor", "strong": "weak", "loud": "quiet",
    "early": "late", "clean": "dirty", "near": "far", "first": "last", "in": "out", "yes": "no",
    "thick": "thin", "heavy": "light", "true": "false", "begin": "end", "win": "lose", "black": "white",
}  # fmt: skip

SOUNDS = {
    "cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink", "bee": "buzz",
    "lion": "roar", "owl": "hoot", "horse": "neigh", "mouse": "squeak", "frog": "ribbit", "hen": "cluck",
    "snake": "hiss", "wolf": "howl", "bird": "tweet",
}  # fmt: skip

SPELLED_ALWAYS = tuple(
    sorted(
        {
            *ANIMALS, *PEOPLE, *PLACES, *THINGS, *COLOURS, *SEASONS, *NUMBER_WORDS, *TENS,
            *OPPOSITES,
            *OPPOSITES.values(), *SOUNDS,
            *(word.lower() for word in (*DAYS, *MONTHS, *NAMES)),
            *(word for thing in COLOUR_OF for word in thing.split() if len(word) > 1),
            *listed("hello world name story friend house tree water happy letter number colour word"),
            *listed("banana tomato lemon carrot cherry pumpkin chocolate strawberry cloud snow grass paper"),
            *listed("model small"),
            *listed("count thank today morning please question answer sorry little nothing together"),
        }
    )
)  # fmt: skip

_EXTRA_WORDS = listed(
    """
    able acid actor adult agent alarm album angle ankle apron arm arrow artist atom aunt baby bacon badge bag
    baker balance bamboo band bank barn basin basket bath battle beach bean beard beast bed bench berry bike
    blade blanket block board body bone bottle bowl brain branch brave bread brick bridge bright broom
    brother bubble bucket bug butter button cabin cable camel camera camp candle candy captain card carpet
    cart cattle cave chain chair chalk cheese chest chicken child chin circle city clay clever clock cloth
    clown coach coast coat coffee collar comb cook copper corn corner cotton cousin cover crab crane cream
    crown curtain cushion dance danger daughter desert desk diamond dinner dish doctor doll dolphin donkey
    door dream dress drink driver dust eagle ear earth edge egg engine evening eye face factory fairy family
    farmer father feather fence field finger fire flag flame flood floor flour fly folk food foot fork frame
    fruit game gate ghost giant gift ginger giraffe girl glass glove glue gold grain grandma grape gravel
    green guard guest guitar hair hammer hand handle harbor harp hawk head heart helmet hero hobby hole home
    honey hook hospital hotel hour human hunter ice idea insect iron island ivory jacket jam jar jelly jewel
    joke juice jungle kettle kick kidney king kitchen knee knife ladder lady land lantern leader leather leg
    lemonade lesson library lid lip lizard lock log lunch machine magic magnet mango map marble market mask
    meal meat medal melon metal milk mill mind mirror money moon mother motor mountain mouth movie mud muscle
    museum music nail napkin neck needle nephew nest net noise noodle nose nurse nut oak ocean office oil
    olive onion oven page paint palace pan panda parent parrot party pasta path peach peanut pear pearl pen
    pencil penguin people pepper piano picnic picture pillow pilot pin pine pipe pirate pizza plane planet
    plant plate player pocket poem poet pond pony pool potato powder prince prize puddle pump pupil puppet
    purse puzzle queen quilt radio rain rainbow ranch rat ribbon rice ring road robin robot rocket roof room
    root rope rose ruler sack saddle sail salad salt sand sandwich scarf school science scissors screen seal
    seat seed shadow shark shed shelf shell shield ship shirt shop shoulder shower silk silver singer sister
    skate skin skirt sleep sleeve slipper smile smoke snake soap sock sofa soil soldier song soup space spark
    spider spoon square squirrel stable stage stair stamp station steam steel stick stomach store storm stove
    straw stream street string student sugar suit sunset sweater swing sword table tail tailor tank teacher
    team tent thief thumb thunder ticket tie tin toast toe tongue tooth towel tower town toy track tractor
    trade train trap treasure truck trumpet tube tunnel turkey twig uncle valley van vase velvet victory
    video violin voice wagon wall walnut wave weather week whale wheat wheel whistle wind window wing winner
    wire wise wish witch wolf woman wool worker worm wrist writer yard year yellow zebra zipper
    """
)
EXTRA_WORDS = tuple(word for word in _EXTRA_WORDS if word not in SPELLED_ALWAYS)

UNKNOWN_TOPICS = listed(
    """
    quantum physics;football;the stock market;politics;the weather;history;black holes;cooking;dinosaurs;
    computers;the internet;cars;medicine;art;religion;philosophy;chemistry;space travel;the economy;gardening;
    fashion;video games;movies;the Romans;electricity;volcanoes;biology;tennis;chess;money;music theory;law;
    airplanes;the ocean;viruses;robots;poetry;geography;Python;databases;machine learning;coffee;photography
    """,
    ";",
)

COUNTRIES = listed(
    "France Germany Spain Italy Japan China India Brazil Canada Mexico Egypt Kenya Norway Sweden Poland Peru "
    "Chile Greece Turkey Russia England Ireland Portugal Austria Finland Denmark Cuba Iran Australia Ukraine"
)

FOREIGN = listed(
    """
    Bonjour!;Hola!;Guten Tag!;Wie geht es dir?;Comment ça va?;¿Cómo estás?;Ciao!;Wer bist du?;Qui es-tu?;你好;
    こんにちは;日本語;Привет!;Как дела?;안녕하세요;مرحبا;¿Qué hora es?;Wie heißt du?;Que sais-tu faire?;Olá!;
    Erzähl mir eine Geschichte;谢谢;Merci!;Danke!;Dziękuję;Hej!;नमस्ते;שלום;😀;👍;🙂;❤️;🚀;你是谁?
    """,
    ";",
)

LANGUAGES = listed("French German Spanish Italian Japanese Chinese Latin Russian Arabic Greek Dutch Korean")

LITTLE_WORDS = listed(
    "the a is my your in on and very fast slow good day I like we are this to of not big it was"
)
