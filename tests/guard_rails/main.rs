//! What cannot be right does not compile, and the compiler says what to do instead: each file beside this one is a mistake, with the text that
//! its author reads. (What only shows when code runs is found at its first run: see `kernel::tests::rails`.)
//!
//! A new compiler may put its own words differently: `TRYBUILD=overwrite` writes them anew, to be read before they are kept.

#[test]
fn what_cannot_be_right_does_not_compile_and_the_text_says_what_to_do() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/guard_rails/mistakes/*.rs");
}
