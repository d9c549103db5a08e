"""Sentences of the demo dataset: templates with many fillers, in the style of posts.

Some words that carry sentiment are in every lexicon, some in none. Some are negated, and a few sentences mean the
opposite of their words. Neutral posts contain a few words that a lexicon counts as sentiment.
"""

import re

import numpy as np

from msa.demo.posts import NEUTRAL


def sentence(label: str, rng: np.random.Generator) -> str:
    """Write one post of the given sentiment: a core sentence, now and then framed by what posts carry around it."""
    hard = label != NEUTRAL and rng.random() < 0.08  # irony and slang: the words say the opposite
    core = _fill(f"{{{label}_hard}}" if hard else f"{{{label}}}", rng)
    parts = [core[0].upper() + core[1:]]
    if rng.random() < 0.3:
        parts.insert(0, _fill("{opener}", rng))
    if label != NEUTRAL and not hard and rng.random() < 0.5:
        parts.append(_fill(f"{{{label}_verdict}}.", rng))
    elif rng.random() < 0.25:
        parts.append(_fill("{aside}", rng))
    if rng.random() < 0.2:
        parts.append(_fill("{emoji}" if hard else f"{{{label}_emoji}}", rng))
    tags = [f"{{{label}_tag}}" if rng.random() < 0.5 else "{tag}" for _ in range(rng.integers(0, 3))]
    parts += [_fill(tag, rng) for tag in tags]
    return _spelled(" ".join(parts), rng)


def _fill(template: str, rng: np.random.Generator) -> str:
    """Replace each {slot} by a line of its bank, which may hold slots itself."""

    def line(slot: re.Match[str]) -> str:
        bank = BANKS[slot[1]]
        return _fill(bank[rng.integers(len(bank))], rng)

    return re.sub(r"\{(\w+)\}", line, template)


def _spelled(text: str, rng: np.random.Generator) -> str:
    """People type in a hurry: lower case, no full stop, one exclamation mark too many."""
    if rng.random() < 0.25:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.replace(". ", " ").removesuffix(".")
    if rng.random() < 0.12:
        text = text.replace(".", "!!", 1)
    return text


def _lines(block: str) -> tuple[str, ...]:
    """The entries of a bank: one per line, or, inside a line, between slashes."""
    return tuple(entry.strip() for line in block.splitlines() for entry in line.split(" / ") if entry.strip())


BANKS = {
    name: _lines(block)
    for name, block in {
        "positive": """
            {thing} was {intensely} {good}.
            {thing} was {good_noun}, {because_good}.
            {thing} turned out {intensely} {good}, {because_good}.
            {intensely} {good}: {thing}.
            we {liked} {thing}.
            {who} and I {liked} {thing}, {because_good}.
            {thing} {lifted}.
            {lifted_i} after {thing}.
            {when} {who} {gave} and it {lifted}.
            thank you {who} for {thing}, {because_good}.
            {thing} was not bad at all, {because_good}.
            no complaints about {thing}, {because_good}.
            never seen {thing} go this well, {because_good}.
            {when} we {won}.
            {who} {won_too} and I am so proud.
            {who} came home {when} and we are over the moon.
            if you get the chance, go and see {place}. {positive_verdict}.
            still smiling about {thing}.
        """,
        "positive_hard": """
            {thing} was sick, {who} absolutely killed it.
            I cried like a baby at {thing}, in the best way.
            I hate how much I needed {thing}.
            {thing} was dangerously tasty.
            stupidly pleased with {thing}.
            bad news for my diet: {thing} has no equal.
        """,
        "negative": """
            {thing} was {intensely} {bad}.
            {thing} was {bad_noun}, {because_bad}.
            {thing} turned out {intensely} {bad}, {because_bad}.
            {intensely} {bad}: {thing}.
            we {disliked} {thing}.
            {who} and I {disliked} {thing}, {because_bad}.
            {thing} {sank}.
            {sank_i} after {thing}.
            {thing} was not good at all, {because_bad}.
            {thing} was nothing like the nice pictures, {because_bad}.
            not happy with {thing}, {because_bad}.
            {when} we {lost}.
            {who} {lost_too} and I do not know what to say.
            {when} somebody {wronged} and {sank_short}.
            third time {thing} falls through. {negative_verdict}.
            do not bother with {place}. {negative_verdict}.
            {who} never showed up for {thing} and {sank_short}.
            cannot sleep, {thing} keeps going round in my head.
        """,
        "negative_hard": """
            oh great, {thing} called off again.
            how nice, {thing} and not one seat left for us.
            brilliant, locked out again, thanks {who}.
            just love paying twice for {thing}.
            well done {who}, {thing} runs two hours late. slow clap.
            best customer service ever, on hold since {hour} about {thing}.
        """,
        "neutral": """
            {thing} starts at {hour} {soon}.
            {thing} has been moved to {hour}.
            here is {thing} as seen from {place}.
            {place} opens at {hour} {soon}.
            {soon} bus {number} leaves from {place}.
            {who} and I are at {place} {soon}.
            does anyone know when {place} closes {soon}?
            looking for the address of {place}, is it house {number} or {number}?
            {number} people are on the list for {thing}.
            part {number} of the series on {topic}.
            {who} speaks about {topic} at {place}.
            the notes on {topic} are online, {number} pages.
            {day}: {topic} with {who}, {hour}, {place}.
            to be collected at {place}: {object}, {number} years old.
            this is {object} next to {object}.
            {object} arrived {when}, the other one ships {soon}.
            reading about {topic} at {place}.
            {place} is between the post office and platform {number}.
            tickets for {thing} cost {number} at {place}.
            same route as {day}, {number} km by way of {place}.
            the lost property desk at {place} moves to room {number}.
            happy hour at {place} is now from {hour}.
            the war museum and {place} share one entrance.
            criticism of {topic}: seminar {number}, {day}.
        """,
        "thing": """
            the concert at {place} / our weekend in {town} / the {meal} at {place} / the match against {town}
            the night train to {town} / my new {device} / the hotel in {town} / the school play
            the {meal} {who} made / the last episode / the update of my {device} / the half marathon in {town}
            our picnic by the river / the street market in {town} / my {number} o'clock interview / the garden tour
            the ferry to {town} / the flat in {town} / the choir rehearsal / the move to {town} / my driving test
            the exhibition at {place} / the talk on {topic} / the class on {topic} / the camping trip
            the parcel from {town} / the haircut {who} gave me / the bike repair / the parade in {town} / my exam
            the reunion at {place} / the {meal} on the roof / the film about {topic} / the walk around {town}
        """,
        "place": """
            the corner café / {town} station / the old mill / the library in {town} / the harbour hall
            {town} town hall / the north gate / the bakery on {street} / the clinic on {street} / the market square
            the bridge in {town} / the museum of {topic} / the garage on {street} / the lake hut
            the cinema on {street} / the swimming bath
        """,
        "town": """
            Marlow Bay / Eastmere / Norrby / Tolhaven / Karlsund / Pinewick / San Tello / Oakrigg / Velden / Little Anst
            Brackwater / Otter Heights / Quill Harbour / Redmoor / Lindau Cross
        """,
        "street": "Mill Lane / Station Road / Tanner Street / Third Avenue / Weaver Row / Canal Street / Elm Walk",
        "topic": """
            bees / maps / tide tables / bread / typography / railway signals / moss / clay / old radios / weaving
            city planning / knots / statistics / lighthouses / paper / soil / birds
        """,
        "object": """
            a desk lamp / a kettle / a blue folder / a wooden chair / a bicycle pump / a wall clock / a chess set
            a box of tiles / a tripod / a pair of boots / a bookshelf / a printer / a rain coat / a drum
        """,
        "device": "phone / laptop / camera / oven / headset / tablet / watch / bike",
        "meal": "lunch / dinner / breakfast / soup / pancakes / curry / ramen / barbecue / buffet",
        "who": """
            @{handle} / @{handle} / my sister / my neighbour / grandpa / our coach / the kids / my flatmate
            Noor / Jonas / Amaya / Piet / Oluchi / the twins / my boss / Mrs Hale
        """,
        "handle": """
            kite_and_co / noor_reads / mtn_goat81 / slowbread / pixelpiet / lea_on_rails / thatdrummer / oak_and_ivy
            juno_runs / north_end_fm / tess_makes / bus44 / hannes_v / quietcorner
        """,
        "when": """
            today / on {day} / yesterday / this morning / last {day} / last night / this week / earlier today
        """,
        "soon": "today / tonight / on {day} / tomorrow / next {day} / this week / next week / every {day}",
        "day": "Monday / Tuesday / Wednesday / Thursday / Friday / Saturday / Sunday",
        "hour": "7 am / 8.30 / 9 am / noon / 2 pm / quarter past 4 / 5 pm / 6.15 / 8 pm / midnight",
        "number": "2 / 3 / 4 / 5 / 6 / 7 / 9 / 11 / 12 / 14 / 18 / 21 / 25 / 30 / 44",
        "intensely": "so / really / absolutely / simply / pretty / quite / just / truly / utterly",
        "good": """
            lovely / wonderful / great / fantastic / beautiful / delightful / charming / awesome / amazing / brilliant
            heavenly / dreamy / magical / gorgeous / uplifting / joyful / refreshing / heartwarming / cosy / moving
        """,
        "good_noun": "a dream / spot on / first rate / five stars / pure gold / top notch / a gem / a triumph",
        "positive_verdict": """
            loved it / worth every penny / ten out of ten / would go again in a heartbeat / pure joy / what a treat
            best day in months / exactly as we hoped / chapeau / simply the best
        """,
        "because_good": """
            everybody was so kind / the sun came out / people sang along / it went without a hitch
            the staff were friendly / we laughed all the way home / the kids beamed / worth every penny
            we got the good seats / it felt like summer / everyone hugged / I feel at home here / it just clicked
        """,
        "liked": """
            loved / really enjoyed / had a blast at / were thrilled by / adored / could not get enough of
            fell for / were charmed by / are still raving about
        """,
        "lifted": """
            made my day / made my whole week / left us grinning from ear to ear / gave me goosebumps of the good kind
            cheered everyone up / put a spring in my step / restored my hope / was a gift / was a real pleasure
        """,
        "lifted_i": "feeling blessed / so grateful / walking on air / happy and tired / at peace / full of energy",
        "gave": """
            surprised me with {object} / brought flowers / fixed my {device} for free / sang for us / gave me {object}
            invited us to {town} / saved us a seat at {place}
        """,
        "won": """
            won the cup / got the keys / got engaged / passed with flying colours / reached the summit
            adopted a puppy / beat {town} in extra time / paid off the {device}
        """,
        "won_too": "got the job / passed the exam / won a prize / took her first steps / finished the race smiling",
        "bad": """
            awful / terrible / horrible / disgusting / miserable / disappointing / dreadful / boring / sad / rotten
            grim / soul destroying / dire / bleak / shoddy / depressing / chaotic / painful / stale / hopeless
        """,
        "bad_noun": "a disaster / a letdown / one star / a shambles / second rate / a joke / a mess / a write-off",
        "negative_verdict": """
            never again / what a waste of money / heartbroken / want my money back / avoid / so angry / I give up
            worst day in months / should have stayed in bed / enough is enough
        """,
        "because_bad": """
            everybody was so rude / it rained through the roof / half of us got ill / nobody answers the phone
            the staff ignored us / we waited three hours for nothing / the kids were in tears / nothing worked
            they lost our booking / they shouted at us / it ended in a fight / I feel cheated / the lights went out
        """,
        "disliked": """
            hated / really regret / were let down by / walked out of / got sick from / are fed up with
            wasted a whole day on / were robbed at / will never forgive
        """,
        "sank": """
            ruined my day / ruined the whole week / left us in tears / left a bitter taste / gave me a headache
            fell apart / broke my heart / was a slap in the face / drained the life out of me / was a nightmare
        """,
        "sank_i": "feeling low / so tired of this / worried sick / lonely and cold / in pieces / at my wits' end",
        "sank_short": "nobody cares / I feel sick / it hurts / I could scream / we are gutted / the damage is done",
        "lost": """
            lost the final / missed the last train / had to say goodbye to our old dog / got evicted
            failed the inspection / lost to {town} again / had to bury the plan for {town} / broke down in the rain
        """,
        "lost_too": "lost the job / failed the exam / is in hospital / crashed the {device} / got mugged on {street}",
        "wronged": """
            stole my {device} / scratched the car / lied to us about {thing} / yelled at the kids at {place}
            dumped rubbish on {street} / smashed the window at {place} / spoiled the ending
        """,
        "opener": "RT @{handle}: / Hm. / So. / Update: / @{handle} / Hey @{handle}, / Note: / From {town}: / Photo:",
        "aside": """
            more {soon}. / see picture. / via @{handle} / that was {day} for you. / pic from {place}. / cc @{handle}
            back to {topic} now. / over and out. / more on {topic} later.
        """,
        "emoji": "🙃 / 👀 / 📷 / 🤷 / 😅",
        "positive_emoji": "😊 / 🎉 / ❤️ / 🌞 / 😍 / 🥳 / 👀 / 📷",
        "negative_emoji": "😞 / 😡 / 💔 / 😭 / 🌧️ / 🤦 / 👀 / 📷",
        "neutral_emoji": "📷 / 📌 / 📅 / 🚌 / 👀",
        "tag": "#{day} / #photo / #{meal} / #citylife / #diary / #{device} / #weekend / #now / #ontheroad / #local",
        "positive_tag": "#happy / #blessed / #grateful / #goodtimes / #bestday / #sunshine / #joy / #winning / #yay",
        "negative_tag": "#fail / #sad / #worstday / #angry / #gutted / #lonely / #ugh / #disappointed / #whyme",
        "neutral_tag": "#timetable / #info / #notes / #archive / #map / #howto / #agenda / #openinghours",
    }.items()
}
