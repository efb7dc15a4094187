//! The plan of the mesh and its budget.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::DeValue;

use super::region_name;
use crate::document::{Found, Reported, Section, text};
use crate::fleet::{Pair, Plan};
use crate::ids::RegionName;

pub(super) fn budget(section: &Section<'_>) -> Found<Option<u64>> {
    let written = section.get("budget_bits_per_s", |_| Ok(()))?;
    let budget = section.integer("budget_bits_per_s", 1..=u64::MAX, 1)?;
    Ok(written.map(|()| budget))
}

pub(super) fn plan(section: &Section<'_>, regions: &[String]) -> Found<Plan> {
    let word = section.get("plan", |value| {
        let word = text(value)?;
        match word.as_str() {
            "full" | "hub" | "pairs" => Ok(word),
            _ => Err(format!("{word:?} is no plan; there are: full, hub, pairs")),
        }
    })?;
    let word = word.as_deref().unwrap_or("full");
    only_with(section, "hubs", "hub", word).and(only_with(section, "pairs", "pairs", word))?;
    match word {
        "hub" => hubs(section, regions),
        "pairs" => pairs(section, regions),
        _ => Ok(Plan::Full),
    }
}

/// A list that the plan does not use would be ignored: that is surely not meant.
fn only_with(section: &Section<'_>, key: &str, plan: &str, word: &str) -> Found<()> {
    let read = |_: &DeValue<'_>| {
        if plan == word {
            Ok(())
        } else {
            Err(format!("means nothing with plan = {word:?}; write plan = {plan:?} or take it out"))
        }
    };
    section.get(key, read).map(|_| ())
}

fn hubs(section: &Section<'_>, regions: &[String]) -> Found<Plan> {
    let names = section.require("hubs", |value| {
        let mut names = BTreeSet::new();
        for name in list(value, "a list of regions, such as [\"a\", \"b\"]")? {
            let name = region_name(name, regions)?;
            if names.contains(&name) {
                return Err(format!("{name:?} stands twice"));
            }
            names.insert(name);
        }
        Ok(names)
    })?;
    Ok(Plan::Hub(names.iter().map(|name| checked(name)).collect::<Found<_>>()?))
}

fn pairs(section: &Section<'_>, regions: &[String]) -> Found<Plan> {
    const SHAPE: &str = "a list of pairs of regions, such as [[\"a\", \"b\"], [\"a\", \"c\"]]";
    let written = section.require("pairs", |value| {
        let mut found: BTreeSet<[String; 2]> = BTreeSet::new();
        for pair in list(value, SHAPE)? {
            let [one, other] = list(pair, SHAPE)?[..] else { return Err(format!("must be {SHAPE}")) };
            let mut pair = [region_name(one, regions)?, region_name(other, regions)?];
            pair.sort();
            if pair[0] == pair[1] {
                return Err(format!("{:?} cannot probe itself", pair[0]));
            }
            let [a, b] = &pair;
            let twice = format!("the pair {a:?}, {b:?} stands twice; each pair is probed both ways");
            if !found.insert(pair) {
                return Err(twice);
            }
        }
        Ok(found)
    })?;
    let pair = |[a, b]: [String; 2]| Pair::new(checked(&a)?, checked(&b)?).ok_or_else(Reported::elsewhere);
    Ok(Plan::Pairs(written.into_iter().map(pair).collect::<Found<_>>()?))
}

/// The values of a list that is not empty.
fn list<'v, 't>(value: &'v DeValue<'t>, shape: &str) -> Result<Vec<&'v DeValue<'t>>, String> {
    let values = value.as_array().filter(|values| !values.is_empty());
    Ok(values.ok_or_else(|| format!("must be {shape}"))?.iter().map(Spanned::get_ref).collect())
}

/// The name of a region that is in the file; a bad one was told where it stands.
fn checked(name: &str) -> Found<RegionName> {
    name.parse().map_err(|_| Reported::elsewhere())
}
