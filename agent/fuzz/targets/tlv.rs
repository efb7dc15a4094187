//! TLVs and the values of the private ones.
#![no_main]

use lagmesh_agent::mesh::fuzzing::values;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    values(input);
});
