//! Features that nobody gets without asking for them: `planted`, with which the product has bugs, stands in no default, comes
//! with no other feature, and with no dependency.

use serde_json::Value;

use super::Finding;

const PLANTED: &str = "planted";

pub(super) fn check(workspaces: &[Value], findings: &mut Vec<Finding>) {
    for package in workspaces.iter().filter_map(|metadata| metadata["packages"].as_array()).flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let mut find = |what: String| findings.push(Finding::new(name, 0, what));
        for (feature, enables) in package["features"].as_object().into_iter().flatten() {
            if feature != PLANTED && strings(enables).any(is_planted) {
                find(format!("the feature `{feature}` plants bugs: only `{PLANTED}` may"));
            }
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if strings(&dependency["features"]).any(is_planted) {
                let on = dependency["name"].as_str().unwrap_or_default();
                find(format!("it plants bugs in {on}: only the feature `{PLANTED}` may"));
            }
        }
    }
}

fn strings(array: &Value) -> impl Iterator<Item = &str> {
    array.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn is_planted(feature: &str) -> bool {
    feature.rsplit('/').next() == Some(PLANTED)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bugs_come_with_their_own_feature_only() {
        let package = |features: Value, of_dependency: Value| {
            let dependencies = json!([{ "name": "b", "features": of_dependency }]);
            json!({ "packages": [{ "name": "a", "features": features, "dependencies": dependencies }] })
        };
        let count = |metadata: Value| {
            let mut findings = Vec::new();
            check(&[metadata], &mut findings);
            findings.len()
        };
        assert_eq!(count(package(json!({ "planted": ["b/planted"], "default": [] }), json!(["fuzzing"]))), 0);
        assert_eq!(count(package(json!({ "planted": [], "default": ["planted"] }), json!([]))), 1);
        assert_eq!(count(package(json!({ "fuzzing": ["b?/planted"] }), json!(["planted"]))), 2);
    }
}
