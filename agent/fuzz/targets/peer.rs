//! Answers from anywhere, at the socket of a flow.
#![no_main]

use lagmesh_agent::mesh::fuzzing::answer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    answer(input);
});
