//! The codes with which a lagmesh process ends, so that a unit file, a script and a person can branch on them.
//!
//! The numbers are those of `sysexits.h`, which service managers and init scripts know.

/// Clean shutdown: asked to stop, everything ended in time.
pub const OK: u8 = 0;
/// The command line is wrong (`EX_USAGE`). A restart cannot help.
pub const USAGE: u8 = 64;
/// A task died or could not be ended in time (`EX_SOFTWARE`). A restart may help.
pub const SOFTWARE: u8 = 70;
/// The operating system refused something that we need (`EX_NOPERM`).
pub const NOPERM: u8 = 77;
/// The configuration is wrong or unsafe (`EX_CONFIG`). A restart cannot help; units name it in `RestartPreventExitStatus`.
pub const CONFIG: u8 = 78;
/// A second signal came while winding down: ended at once, nothing flushed. A shell reports the same number for Ctrl-C.
pub const FORCED: u8 = 130;
