//! The real program, from its command line to what a collector gets from it.

#[cfg(test)]
mod alone;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod collector;
#[cfg(test)]
mod dead_letters;
#[cfg(test)]
mod delivery;
#[cfg(test)]
mod program;
#[cfg(test)]
mod reload;
