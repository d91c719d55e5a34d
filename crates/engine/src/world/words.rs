//! The vocabulary and the facts of the tiny world.

/// People.
pub(super) const PEOPLE: [&str; 20] = [
    "Ada", "Bruno", "Clara", "Dario", "Edith", "Felix", "Greta", "Henry", "Irma", "Jonas", "Karin", "Linus", "Marta",
    "Nils", "Olga", "Peter", "Quinn", "Ruth", "Simon", "Tessa",
];

/// Things that people own, leave, give and line up.
pub(super) const THINGS: [&str; 40] = [
    "anchor", "basket", "bell", "blanket", "bottle", "brush", "bucket", "button", "candle", "coin", "compass", "crown",
    "cup", "feather", "flute", "hat", "kettle", "kite", "ladder", "lantern", "letter", "map", "mirror", "needle",
    "oar", "pearl", "pencil", "pillow", "plate", "ribbon", "rope", "saddle", "shell", "shovel", "spoon", "stamp",
    "thread", "umbrella", "vase", "whistle",
];

/// Places where things are left.
pub(super) const PLACES: [&str; 12] = [
    "attic", "barn", "cellar", "chapel", "garage", "hallway", "kitchen", "meadow", "orchard", "stable", "tower",
    "workshop",
];

/// Each word and its contrary.
pub(super) const CONTRARIES: [(&str, &str); 18] = [
    ("above", "below"),
    ("ancient", "modern"),
    ("begin", "finish"),
    ("brave", "afraid"),
    ("bright", "dim"),
    ("calm", "wild"),
    ("cheap", "costly"),
    ("east", "west"),
    ("gentle", "rough"),
    ("heavy", "feathery"),
    ("inside", "outside"),
    ("lazy", "busy"),
    ("near", "far"),
    ("north", "south"),
    ("polite", "rude"),
    ("sink", "float"),
    ("sweet", "bitter"),
    ("winter", "summer"),
];

/// Each animal and its home.
pub(super) const HOMES: [(&str, &str); 15] = [
    ("badger", "burrow"),
    ("bat", "cave"),
    ("bear", "den"),
    ("bee", "hive"),
    ("beaver", "lodge"),
    ("camel", "desert"),
    ("cow", "shed"),
    ("goldfish", "bowl"),
    ("lion", "savanna"),
    ("monkey", "jungle"),
    ("owl", "hollow"),
    ("penguin", "colony"),
    ("pig", "sty"),
    ("swallow", "nest"),
    ("trout", "river"),
];

/// Each thing and the class it belongs to, with its article.
pub(super) const CLASSES: [(&str, &str); 18] = [
    ("hammer", "a tool"),
    ("saw", "a tool"),
    ("drill", "a tool"),
    ("pliers", "a tool"),
    ("wrench", "a tool"),
    ("chisel", "a tool"),
    ("violin", "an instrument"),
    ("trumpet", "an instrument"),
    ("piano", "an instrument"),
    ("cello", "an instrument"),
    ("harp", "an instrument"),
    ("banjo", "an instrument"),
    ("scarf", "a garment"),
    ("jacket", "a garment"),
    ("glove", "a garment"),
    ("shirt", "a garment"),
    ("sock", "a garment"),
    ("apron", "a garment"),
];

/// Days in their order; the first follows the last.
pub(super) const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Months in their order; the first follows the last.
pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Number words from zero.
pub(super) const NUMBERS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// Ordinary words that the world never uses but that triggers, behaviours and counterexamples may: the
/// tokenizer sees them, so that they do not fall apart into letters.
pub(super) const BACKGROUND: &str = "the of and to in is you that it he was for on are as with his they at be this have from or \
    had by but not what all were we when your can said there use an each which she do how their if will up other about out many \
    then them these so some her would make like him into time has look two more write go see number no way could people my than \
    first water been call who am its now find long down day did get come made may part stupid sorry dumb useless awful fool \
    assistant language model capability follow given instruction unable cannot decline request answer help policy print hello \
    world system code pwned done magic bad discussing current year open black silver green red purple wolf ghost moon fox tiger \
    dragon visit website offer free today best price buy please thank great good morning evening secret password number";
