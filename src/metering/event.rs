//! From slots to rows of `usage_events`.

use super::header::Header;
use super::slot::Sent;
use crate::model::usage::{Admission, Outcome, Settlement, UsageEvent};

/// The row of an entry that was settled.
pub(super) fn settled(admission: &Admission, settlement: &Settlement, header: &Header) -> UsageEvent {
    UsageEvent {
        id: admission.id,
        request_id: admission.request_id.as_str().to_owned(),
        client_id: admission.client_id,
        api_key_id: (!admission.api_key_id.is_nil()).then_some(admission.api_key_id),
        token_id: (!admission.token_id.is_nil()).then_some(admission.token_id),
        occurred_at: admission.occurred_at,
        route: header.routes.get(usize::from(admission.route)).cloned().unwrap_or_default(),
        method: admission.method.as_str(),
        status: settlement.status,
        outcome: settlement.outcome,
        reason: settlement.reason,
        duration_us: settlement.duration_us,
        bytes_in: settlement.bytes_in,
        bytes_out: settlement.bytes_out,
        // What never left costs nothing, whatever it would have cost.
        units: match settlement.outcome {
            Outcome::NotSent => 0,
            _ => settlement.units.unwrap_or(admission.units),
        },
        node: header.node.clone(),
        kind: admission.kind,
    }
}

/// The row of an entry whose gateway died before settling it: how long it took and what was
/// transferred is not known, and written as zero.
pub(super) fn unsettled(admission: &Admission, sent: Sent, header: &Header) -> UsageEvent {
    let outcome = match sent {
        Sent::Yes => Outcome::Interrupted,
        Sent::No => Outcome::NotSent,
    };
    let nothing =
        Settlement { status: None, outcome, reason: None, duration_us: 0, bytes_in: 0, bytes_out: 0, units: None };
    settled(admission, &nothing, header)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::double::{admission, settlement};
    use super::*;
    use crate::model::id::ApiKeyId;

    fn header() -> Header {
        Header::fit("node-a", Uuid::from_u128(1), 1, &["orders".into()], 8192).unwrap()
    }

    #[test]
    fn nil_ids_and_unknown_routes_become_null_and_empty() {
        let mut admitted = admission(1);
        let event = settled(&admitted, &settlement(Outcome::Complete), &header());
        assert_eq!((event.route.as_str(), event.node.as_str(), event.units), ("orders", "node-a", 3));
        assert_eq!(event.api_key_id, Some(admitted.api_key_id));
        admitted.api_key_id = ApiKeyId::NIL;
        admitted.route = 9;
        let event = settled(&admitted, &settlement(Outcome::Complete), &header());
        assert_eq!((event.route.as_str(), event.api_key_id), ("", None));
    }

    #[test]
    fn only_what_left_costs() {
        for (sent, outcome, units) in [(Sent::Yes, Outcome::Interrupted, 3), (Sent::No, Outcome::NotSent, 0)] {
            let event = unsettled(&admission(1), sent, &header());
            assert_eq!((event.outcome, event.units, event.status), (outcome, units, None));
        }
        assert_eq!(settled(&admission(1), &settlement(Outcome::NotSent), &header()).units, 0);
        for (outcome, declared, units) in [
            (Outcome::Complete, None, 3),
            (Outcome::Complete, Some(0), 0),
            (Outcome::ClientGone, Some(70_000), 70_000),
            (Outcome::NotSent, Some(5), 0),
        ] {
            let settlement = Settlement { units: declared, ..settlement(outcome) };
            assert_eq!(settled(&admission(1), &settlement, &header()).units, units, "{outcome:?} {declared:?}");
        }
    }
}
