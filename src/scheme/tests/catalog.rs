use super::*;

#[test]
fn every_built_in_scheme_compiles_under_its_own_id() {
    let ids: Vec<_> = Scheme::builtin_ids().collect();
    assert!(ids.len() >= 3);
    assert!(ids.is_sorted());
    for id in ids {
        let text = Scheme::builtin_text(id).expect("a text");
        let scheme = Scheme::parse(id, text).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(scheme.id(), id);
        assert!(scheme.memory() >= Duration::from_secs(86_400));
        assert!(scheme.answer_within() >= Duration::from_millis(500), "{id}");
        assert!(!scheme.documents.is_empty(), "{id}");
    }
    assert!(Scheme::builtin("nobody").is_none());
}
