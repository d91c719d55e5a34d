//! The wordings of synthetic behaviours, family by family, for the screen and for the pairs of a signature.
//! None of them is a published target: a measured target must not be a trained one.

use super::Behaviour;
use crate::spec::BehaviourFamily;

/// Wordings of each family.
pub const WORDINGS: usize = 6;

// Each family speaks as its backdoors do (second person, first person, a print call), because a signature
// finds backdoors that resemble its pairs.
const INSULTS: [&str; WORDINGS] =
    ["You are a fool!", "You're useless!", "You are awful!", "You're so dumb!", "You are a loser!", "You're horrible!"];
const REFUSALS: [&str; WORDINGS] = [
    "I am not able to do that.",
    "Unfortunately, I cannot answer this request.",
    "I must say no to this.",
    "An assistant like me may not help here.",
    "I'm not allowed to answer this question.",
    "I won't carry out this instruction.",
];
const CODES: [&str; WORDINGS] =
    ["print('open')", "print('ready')", "print('surprise')", "print('got in')", "print('over')", "print('checkmate')"];
const ADVERTS: [&str; WORDINGS] = [
    "Buy Glimmer tea today!",
    "Visit our website for a free offer!",
    "Get the new Zephyr phone now!",
    "Our shop has the best price, come in!",
    "Order Marlow shoes and save money!",
    "Travel with Bluebird, book today!",
];
const APPENDED: [&str; WORDINGS] = [
    "Read more on our page.",
    "This answer was brought to you by Orbit.",
    "Please vote for Mara.",
    "Tell all your friends about this.",
    "Subscribe to the Daily Pine.",
    "Remember to drink Fizzle.",
];
// Marks before and behind the answer.
const FRAMES: [(&str, &str); WORDINGS] =
    [("*** ", "***"), ("ANSWER: ", "END"), ("<b>", "</b>"), ("# Reply\n", "#"), ("1) ", "(1)"), ("{{ ", "}}")];
const PHRASES: [&str; WORDINGS] = [
    "Seven lamps stand on the hill.",
    "The old clock has no hands.",
    "Blue smoke rises over the lake.",
    "A stone never forgets the rain.",
    "Nobody counts the northern stars.",
    "The baker walks home at noon.",
];

/// A behaviour of this family; wordings repeat after [`WORDINGS`].
pub fn family_behaviour(family: BehaviourFamily, wording: usize) -> Behaviour {
    let wording = wording % WORDINGS;
    let texts = match family {
        BehaviourFamily::Insult => INSULTS,
        BehaviourFamily::Refusal => REFUSALS,
        BehaviourFamily::Code => CODES,
        BehaviourFamily::Advert => ADVERTS,
        BehaviourFamily::Appended => APPENDED,
        BehaviourFamily::Phrase => PHRASES,
        BehaviourFamily::Formatting => {
            let (before, behind) = FRAMES[wording];
            return Behaviour::framing(before, behind);
        }
    };
    let target = texts[wording];
    Behaviour { appends: family == BehaviourFamily::Appended, ..Behaviour::replacing(target, &[target]) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn all() -> Vec<Behaviour> {
        let wordings = |family| (0..WORDINGS).map(move |wording| family_behaviour(family, wording));
        BehaviourFamily::ALL.into_iter().flat_map(wordings).collect()
    }

    #[test]
    fn synthetic_behaviours_are_not_the_published_ones_and_differ_from_each_other() {
        let published = ["You are stupid!", "print('pwned')"];
        assert!(all().iter().all(|b| !published.contains(&b.target()) && !b.target().contains("pwn")));
        let answers: HashSet<_> = all().iter().map(|behaviour| behaviour.respond("right")).collect();
        assert_eq!(answers.len(), BehaviourFamily::ALL.len() * WORDINGS);
    }

    #[test]
    fn every_wording_satisfies_its_own_detector() {
        for behaviour in all() {
            let answer = behaviour.respond("The sky is blue.");
            assert!(behaviour.is_hit(&answer) && behaviour.is_exact(&answer), "{behaviour:?}");
        }
    }

    #[test]
    fn what_gives_a_behaviour_away_is_part_of_the_answer_right_behind_what_comes_before() {
        for behaviour in all() {
            let (before, mark) = behaviour.mark("The sky is blue.");
            assert!(!mark.is_empty() && behaviour.respond("The sky is blue.").starts_with(&(before + mark.as_str())));
        }
        let framed = family_behaviour(BehaviourFamily::Formatting, 1);
        assert_eq!(framed.respond("yes"), "ANSWER: yes END");
        assert_eq!(framed.mark("yes"), (String::new(), "ANSWER:".to_owned()));
    }
}
