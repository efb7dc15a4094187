//! Requests from anywhere: the reflector's check and its answers.
#![no_main]

use std::cell::RefCell;

use lagmesh_agent::mesh::fuzzing::Reflectors;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static REFLECTORS: RefCell<Reflectors> = RefCell::default();
}

fuzz_target!(|input: &[u8]| {
    REFLECTORS.with_borrow_mut(|reflectors| reflectors.run(input));
});
