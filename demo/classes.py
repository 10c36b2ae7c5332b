"""The demo's four tasks: their class names, as a person would write them, and the emoji that draw each class.

No two classes are near-synonyms (of ox, cow and water buffalo one stays; a cat's face and a whole cat are both
"cat"), no class is in two tasks, and each is drawn by at least two held-out styles and four pool styles, which the
build asserts.

    .venv/bin/python demo/build.py --out demo        # the only caller
"""

import re

TEMPLATES = (
    "{c}",
    "a picture of a {c}.",
    "a drawing of a {c}.",
    "an icon of a {c}.",
    "clip art of a {c}.",
    "an emoji of a {c}.",
    "an illustration of the {c}.",
)

# One class a line: its name, then the emojibase labels where they are not the name itself; an indented line goes on.
ANIMALS = """
monkey: monkey face, monkey
gorilla
dog: dog face, dog
wolf
fox
cat: cat face, cat
tiger: tiger face, tiger
leopard
horse: horse face, horse
unicorn
deer
cow: cow face, cow
pig: pig face, pig
boar
sheep: ewe
goat
camel: camel, two-hump camel
elephant
rhinoceros
mouse: mouse face, mouse
hamster
rabbit: rabbit face, rabbit
chipmunk
bat
bear
koala
panda
turkey
rooster
baby chick: baby chick, hatching chick, front-facing baby chick
penguin
dove
eagle
duck
owl
frog
crocodile
lizard
snake
dragon: dragon face, dragon
whale: spouting whale, whale
dolphin
tropical fish
blowfish
shark
octopus
crab
shrimp
snail
butterfly
caterpillar: bug
ant
bee: honeybee
ladybug: lady beetle
spider
scorpion
"""

FOOD = """
grapes
melon
watermelon
tangerine
lemon
banana
pineapple
apple: red apple, green apple
pear
peach
cherries
strawberry
tomato
avocado
eggplant
potato
carrot
corn: ear of corn
chili pepper: hot pepper
cucumber
chestnut
mushroom
bread
croissant
baguette: baguette bread
pancakes
meat on the bone: meat on bone
chicken leg: poultry leg
bacon
hamburger
french fries
pizza
taco
burrito
fried egg: cooking
salad: green salad
popcorn
bento box
rice ball
bowl of rice: cooked rice
curry: curry rice
noodle soup: steaming bowl
spaghetti
sweet potato: roasted sweet potato
oden
sushi
fried shrimp
dango
ice cream: soft ice cream, ice cream
shaved ice
doughnut
cookie
birthday cake
cake slice: shortcake
chocolate bar
candy
lollipop
custard
honey: honey pot
coffee: hot beverage
green tea: teacup without handle
wine: wine glass
cocktail: cocktail glass
beer: beer mug, clinking beer mugs
milk: glass of milk
"""

TRAVEL_AND_PLACES = """
mountain: snow-capped mountain, mountain
volcano
tent: camping, tent
beach: beach with umbrella
desert
desert island
stadium
classical building
construction site: building construction
house: house, house with garden, houses
abandoned house: derelict house
post office: Japanese post office, post office
hospital
hotel
school
factory
castle
Japanese castle
Tokyo Tower: Tokyo tower
Statue of Liberty
church
mosque
synagogue
Shinto shrine: shinto shrine
fountain
sunrise: sunrise, sunrise over mountains
bridge: bridge at night
carousel: carousel horse
ferris wheel
roller coaster
circus tent
steam locomotive: locomotive
bullet train: high-speed train, bullet train
subway: metro
train station: station
tram: tram, tram car
monorail
bus: bus, oncoming bus
ambulance
fire engine
police car: police car, oncoming police car
taxi: taxi, oncoming taxi
car: automobile, oncoming automobile
truck: delivery truck, articulated lorry
tractor
racing car
motorcycle
motor scooter
bicycle
bus stop
railway track
gas pump: fuel pump
traffic light: horizontal traffic light, vertical traffic light
anchor
sailboat
canoe
ship: ship, passenger ship
airplane: airplane, airplane departure, airplane arrival, small airplane
helicopter
cable car: mountain cableway, aerial tramway
satellite
rocket
globe: globe showing Europe-Africa, globe showing Americas, globe showing Asia-Australia
"""

OBJECTS = """
glasses
sunglasses
necktie
t-shirt
jeans
dress
kimono
bikini
handbag
backpack
sneaker: running shoe
high-heeled shoe
crown
top hat
graduation cap
lipstick
ring
bell
microphone: microphone, studio microphone
headphones: headphone
radio
saxophone
trumpet
guitar
musical keyboard
drum
mobile phone
telephone
computer: laptop, desktop computer
computer mouse
floppy disk
compact disc: optical disk, dvd
movie camera
television
camera: camera, camera with flash
magnifying glass: magnifying glass tilted left, magnifying glass tilted right
candle
light bulb
flashlight
book: closed book, green book, blue book, orange book
scroll
money bag
banknote: yen banknote, dollar banknote, euro banknote, pound banknote
mailbox: closed mailbox with raised flag, closed mailbox with lowered flag,
    open mailbox with raised flag, open mailbox with lowered flag
pencil
calendar: calendar, spiral calendar, tear-off calendar
paperclip
scissors
trash can: wastebasket
lock: locked, unlocked, locked with pen, locked with key
key: key, old key
hammer
wrench
gear
bomb
syringe
pill
microscope
telescope
door
bed
toilet
bathtub
hourglass: hourglass done, hourglass not done
watch
alarm clock
"""

TASKS = {"animals": ANIMALS, "food": FOOD, "travel-and-places": TRAVEL_AND_PLACES, "objects": OBJECTS}

# Folders of openclipart in which a file named after a class shows one: a "mouse" under computer/ is no animal.
CLIPART_FOLDERS = {
    "animals": ("animals/",),
    "food": ("food/", "plants/"),
    "travel-and-places": ("transportation/", "buildings/", "geography/", "science/", "recreation/"),
    "objects": (
        "electronics/",
        "office/",
        "tools/",
        "people/clothing/",
        "recreation/",
        "education/",
        "computer/hardware/",
    ),
}


def tasks() -> dict[str, dict[str, tuple[str, ...]]]:
    """Task -> class name -> emojibase labels."""
    table = {}
    for task, lines in TASKS.items():
        rows = [line.partition(":") for line in lines.strip().replace("\n    ", " ").splitlines()]
        table[task] = {name: tuple(x.strip() for x in (labels or name).split(",")) for name, _, labels in rows}
    return table


def clipart_class(slug: str) -> str | None:
    """The class that an openclipart file shows, by the words of its file name; the longest match wins."""
    words = " " + re.sub(r"[\W_]+", " ", slug.rsplit("/", 1)[-1].lower()) + " "
    found = [
        name
        for task, names in tasks().items()
        if slug.startswith(CLIPART_FOLDERS[task])
        for name in names
        if re.search(rf" {re.escape(name.lower())}(s|es)? ", words)
    ]
    return max(found, key=len, default=None)
