//! JSON in, columns, JSON out.

use arrow_schema::Fields;

use super::{JsonRows, JsonWriter, RowFault};
use crate::schema::parse_json;

const SCHEMA: &str = r#"{"fields":[
    {"name":"b","type":"bool"},{"name":"i","type":"int32"},{"name":"u","type":"uint64"},
    {"name":"f","type":"float64"},{"name":"g","type":"float32"},{"name":"s","type":"utf8","nullable":false},
    {"name":"x","type":"binary"},{"name":"h","type":"fixed_size_binary(2)"},{"name":"d","type":"date32"},
    {"name":"t","type":"timestamp(ms, UTC)"},{"name":"n","type":"timestamp(us)"},{"name":"c","type":"time32(ms)"},
    {"name":"m","type":"decimal128(10, 2)"},{"name":"l","type":"list","items":"int8"},
    {"name":"e","type":"fixed_size_list(2)","items":{"type":"float32","nullable":false}},
    {"name":"o","type":"struct","fields":[{"name":"p","type":"utf8","nullable":false},
                                          {"name":"q","type":"list","items":"bool"}]}
]}"#;

fn fields() -> Fields {
    parse_json(SCHEMA).unwrap().fields().clone()
}

fn fault(json: &str) -> RowFault {
    let mut rows = JsonRows::new(&fields());
    rows.push(br#"{"s":"fine"}"#).unwrap();
    rows.push(json.as_bytes()).unwrap_err()
}

#[test]
fn what_is_written_reads_back() {
    let written = [
        concat!(
            r#"{"b":true,"i":-2147483648,"u":18446744073709551615,"f":0.1,"g":0.1,"s":"ol\u0001á\"","x":"AP8=","h":"AQI=","#,
            r#""d":"2024-02-29","t":"2024-02-29T12:34:56.789Z","n":"1969-07-20T20:17:40","c":"12:00:00.5","#,
            r#""m":"-12.30","l":[1,null,-3],"e":[1.5,2.5],"o":{"p":"in","q":[true,null]}}"#
        ),
        concat!(
            r#"{"b":null,"i":null,"u":null,"f":null,"g":null,"s":"","x":null,"h":null,"d":null,"t":null,"n":null,"#,
            r#""c":null,"m":null,"l":null,"e":null,"o":null}"#
        ),
        concat!(
            r#"{"b":false,"i":0,"u":0,"f":"NaN","g":"-Infinity","s":"","x":"","h":"AAA=","d":2147483647,"#,
            r#""t":9223372036854775807,"n":-9223372036854775808,"c":"00:00:00","m":"0.00","l":[],"e":[0.0,-0.0],"#,
            r#""o":{"p":"","q":null}}"#
        ),
    ];
    let fields = fields();
    let mut rows = JsonRows::new(&fields);
    for json in written {
        rows.push(json.as_bytes()).unwrap();
    }
    let columns = rows.finish().unwrap();
    let writer = JsonWriter::new(&fields, &columns);
    for (row, json) in written.iter().enumerate() {
        let mut out = Vec::new();
        writer.write(row, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), *json);
    }
}

#[test]
fn other_ways_to_say_the_same() {
    let fields = fields();
    let mut rows = JsonRows::new(&fields);
    let json = r#" {"m":1.5,"t":0,"s":"\u00e1","i":7.0,"f":3,"n":"1970-01-01 00:00:01","d":1,"c":1000} "#;
    rows.push(json.as_bytes()).unwrap();
    let columns = rows.finish().unwrap();
    let mut out = Vec::new();
    JsonWriter::new(&fields, &columns).write(0, &mut out);
    let expected = concat!(
        r#"{"b":null,"i":7,"u":null,"f":3.0,"g":null,"s":"á","x":null,"h":null,"d":"1970-01-02","#,
        r#""t":"1970-01-01T00:00:00Z","n":"1970-01-01T00:00:01","c":"00:00:01","m":"1.50","l":null,"e":null,"o":null}"#
    );
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn what_does_not_fit_names_the_field() {
    for (json, field, why) in [
        (r#"{"#, "", "not a JSON object"),
        (r#"[]"#, "", "not a JSON object"),
        (r#"{"s":"a"} {}"#, "", "not a JSON object"),
        (r#"{}"#, "s", "is missing, and may not be null"),
        (r#"{"s":null}"#, "s", "null, and the schema says it never is"),
        (r#"{"s":"a","s":"b"}"#, "s", "is there twice"),
        (r#"{"s":1}"#, "s", "a number, where text is expected"),
        (r#"{"s":"a","z":1}"#, "z", "no such field"),
        (r#"{"s":"a","i":2147483648}"#, "i", "2147483648 does not fit in int32"),
        (r#"{"s":"a","i":1.5}"#, "i", "1.5, where int32 is expected"),
        (r#"{"s":"a","i":"1"}"#, "i", "\"1\", where int32 is expected"),
        (r#"{"s":"a","u":-1}"#, "u", "-1 does not fit in uint64"),
        (r#"{"s":"a","f":true}"#, "f", "true or false, where float64 is expected"),
        (r#"{"s":"a","b":0}"#, "b", "a number, where true or false is expected"),
        (r#"{"s":"a","x":"%"}"#, "x", "\"%\" is not base64"),
        (r#"{"s":"a","h":"AQ=="}"#, "h", "1 bytes, where 2 are expected"),
        (r#"{"s":"a","t":"yesterday"}"#, "t", "where a time such as"),
        (r#"{"s":"a","m":"1.234"}"#, "m", "does not fit in decimal128(10, 2)"),
        (r#"{"s":"a","l":3}"#, "l", "a number, where an array is expected"),
        (r#"{"s":"a","l":[1,"x"]}"#, "l.items", "where int8 is expected"),
        (r#"{"s":"a","l":{}}"#, "l", "an object, where an array is expected"),
        (r#"{"s":"a","e":[1]}"#, "e", "an array of exactly 2"),
        (r#"{"s":"a","e":[1,2,3]}"#, "e", "an array of exactly 2"),
        (r#"{"s":"a","e":[1,null]}"#, "e.items", "null, and the schema"),
        (r#"{"s":"a","o":[]}"#, "o", "an array, where an object is expected"),
        (r#"{"s":"a","o":{}}"#, "o.p", "is missing"),
        (r#"{"s":"a","o":{"p":"","r":1}}"#, "o.r", "no such field"),
    ] {
        let fault = fault(json);
        assert_eq!(fault.field, field, "{json}: {fault:?}");
        assert!(fault.why.contains(why), "{json}: {fault:?}");
    }
}

#[test]
fn a_few_letters_do_not_become_gigabytes() {
    let schema = r#"{"fields":[{"name":"l","type":"list","items":{"type":"fixed_size_list(1048576)","items":
        {"type":"fixed_size_list(1048576)","items":"decimal128(38, 0)"}}},
        {"name":"w","type":"fixed_size_binary(1048576)"}]}"#;
    let mut rows = JsonRows::new(parse_json(schema).unwrap().fields());
    let fault = rows.push(br#"{"l":[null]}"#).unwrap_err();
    assert_eq!(fault.field, "l.items");
    assert!(fault.why.contains("unfolds"), "{fault:?}");
    let mut rows = JsonRows::new(parse_json(schema).unwrap().fields());
    assert!((0..100).any(|_| rows.push(b"{}").is_err()), "a mebibyte for each null");
}
