//! What a broker owes.

use std::{collections::BTreeSet, time::Duration};

use futures::future::{LocalBoxFuture, join_all};
use rhubarb_core::{
    backend::{Broker, Delivery, OutgoingMessage, QueueSpec, StoreError},
    ids::QueueName,
};

use super::{SECOND, all, assert_invalid, eventually, eventually_so, new_queue, only, while_time_passes};
use crate::clock::Clockwork;

/// Longer than any fact takes.
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_secs(10);
const NO_WAIT: Duration = Duration::ZERO;

/// Exercises a broker.
///
/// # Panics
///
/// It does not do what it owes.
pub async fn broker(broker: &dyn Broker, time: &dyn Clockwork) {
    let facts: Vec<LocalBoxFuture<'_, ()>> = vec![
        Box::pin(a_message_is_delivered_as_it_was_sent(broker, time)),
        Box::pin(a_received_message_is_hidden_until_its_visibility_ends(broker, time)),
        Box::pin(a_deleted_message_never_comes_back(broker, time)),
        Box::pin(an_extended_message_stays_hidden_for_so_long_from_now(broker, time)),
        Box::pin(a_released_message_is_there_at_once(broker, time)),
        Box::pin(a_message_released_with_a_delay_is_hidden_that_long(broker, time)),
        Box::pin(a_stale_receipt_neither_deletes_nor_extends(broker, time)),
        Box::pin(a_receipt_of_a_deleted_message_cannot_extend(broker, time)),
        Box::pin(no_extension_hides_a_message_past_the_limit_counted_from_its_receive(broker, time)),
        Box::pin(a_delayed_message_arrives_after_its_delay(broker, time)),
        Box::pin(a_receive_brings_at_most_what_was_asked(broker, time)),
        Box::pin(many_messages_are_sent_in_one_call_and_each_is_delivered_once(broker, time)),
        Box::pin(receivers_at_the_same_time_share_the_messages(broker, time)),
        Box::pin(each_message_of_a_send_is_answered_by_itself(broker, time)),
        Box::pin(a_message_over_a_limit_is_refused(broker)),
        Box::pin(a_receive_over_a_limit_is_refused(broker)),
        Box::pin(a_message_received_too_often_moves_to_the_dead_letters(broker, time)),
        Box::pin(a_purge_removes_every_message(broker, time)),
        Box::pin(counts_tell_visible_hidden_and_delayed_apart(broker, time)),
        Box::pin(a_long_poll_wakes_at_a_send(broker)),
        Box::pin(a_long_poll_wakes_when_a_message_becomes_visible_again(broker, time)),
        Box::pin(a_long_poll_with_nothing_to_bring_ends_after_its_wait(broker, time)),
        Box::pin(a_queue_is_declared_as_often_as_wanted(broker)),
        Box::pin(a_queue_that_does_not_exist_is_named(broker)),
    ];
    all(time, facts).await;
}

async fn queue(broker: &dyn Broker) -> QueueName {
    let queue = new_queue();
    declare(broker, &queue, None).await;
    queue
}

async fn declare(broker: &dyn Broker, queue: &QueueName, dead: Option<(u32, &QueueName)>) {
    let spec = QueueSpec {
        queue: queue.clone(),
        max_receives: dead.map(|(max, _)| max),
        dead_letters: dead.map(|(_, to)| to.clone()),
    };
    broker.declare(&[spec]).await.unwrap();
}

fn message(body: &str) -> OutgoingMessage {
    OutgoingMessage { body: body.to_owned(), ..OutgoingMessage::default() }
}

async fn send(broker: &dyn Broker, queue: &QueueName, body: &str) {
    only(broker.send(queue, &[message(body)]).await).unwrap();
}

/// The one message that can be received now.
async fn receive(broker: &dyn Broker, queue: &QueueName, visibility: Duration, time: &dyn Clockwork) -> Delivery {
    eventually(time, "nothing is delivered", async || {
        broker.receive(queue, 1, visibility, NO_WAIT).await.unwrap().pop()
    })
    .await
}

async fn assert_nothing_is_there(broker: &dyn Broker, queue: &QueueName) {
    let received = broker.receive(queue, 10, LONG, NO_WAIT).await.unwrap();
    assert!(received.is_empty(), "delivered: {received:?}");
}

async fn a_message_is_delivered_as_it_was_sent(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    let attributes = [("traceparent", "00-abc"), ("task", "t")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let sent = OutgoingMessage { attributes: attributes.into(), ..message("{\"ä\": \"🥕\"}\n\t\u{85}") };
    let before = time.now();
    let id = only(broker.send(&queue, std::slice::from_ref(&sent)).await).unwrap();
    let delivery = receive(broker, &queue, LONG, time).await;
    assert_eq!((&delivery.message, &delivery.body), (&id, &sent.body));
    assert_eq!((&delivery.attributes, delivery.receive_count), (&sent.attributes, 1));
    let near = before.before(SHORT) <= delivery.sent && delivery.sent <= delivery.first_received.after(SECOND);
    assert!(near, "sent at {}, first received at {}", delivery.sent, delivery.first_received);
}

async fn a_received_message_is_hidden_until_its_visibility_ends(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    send(broker, &queue, "once more").await;
    let first = receive(broker, &queue, SHORT, time).await;
    assert_nothing_is_there(broker, &queue).await;
    time.advance(SHORT - 2 * SECOND).await;
    assert_nothing_is_there(broker, &queue).await;
    time.advance(2 * SECOND).await;
    let second = receive(broker, &queue, SHORT, time).await;
    assert_eq!((&second.message, &second.body, second.receive_count), (&first.message, &first.body, 2));
    assert_eq!((second.sent, second.first_received), (first.sent, first.first_received));
    assert_ne!(second.receipt, first.receipt);
}

async fn a_deleted_message_never_comes_back(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    send(broker, &queue, "done").await;
    let delivery = receive(broker, &queue, SECOND, time).await;
    only(broker.delete(&queue, std::slice::from_ref(&delivery.receipt)).await).unwrap();
    time.advance(2 * SECOND).await;
    assert_nothing_is_there(broker, &queue).await;
    only(broker.delete(&queue, &[delivery.receipt]).await).unwrap();
}

async fn an_extended_message_stays_hidden_for_so_long_from_now(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    send(broker, &queue, "long").await;
    let delivery = receive(broker, &queue, SHORT, time).await;
    time.advance(SHORT - 2 * SECOND).await;
    only(broker.extend(&queue, &[(delivery.receipt, SHORT)]).await).unwrap();
    time.advance(SHORT - 2 * SECOND).await;
    assert_nothing_is_there(broker, &queue).await;
    time.advance(2 * SECOND).await;
    receive(broker, &queue, SHORT, time).await;
}

async fn a_released_message_is_there_at_once(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    send(broker, &queue, "back").await;
    let delivery = receive(broker, &queue, LONG, time).await;
    only(broker.release(&queue, &[(delivery.receipt, Duration::ZERO)]).await).unwrap();
    assert_eq!(receive(broker, &queue, LONG, time).await.receive_count, 2);
}

async fn a_message_released_with_a_delay_is_hidden_that_long(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    send(broker, &queue, "later").await;
    let delivery = receive(broker, &queue, LONG, time).await;
    only(broker.release(&queue, &[(delivery.receipt, SHORT)]).await).unwrap();
    time.advance(SHORT - 2 * SECOND).await;
    assert_nothing_is_there(broker, &queue).await;
    time.advance(2 * SECOND).await;
    receive(broker, &queue, LONG, time).await;
}

async fn a_stale_receipt_neither_deletes_nor_extends(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    send(broker, &queue, "mine now").await;
    let stale = receive(broker, &queue, SECOND, time).await.receipt;
    time.advance(SECOND).await;
    receive(broker, &queue, SHORT, time).await;
    // SQS answers a stale delete with success, and does not delete.
    let deleted = only(broker.delete(&queue, std::slice::from_ref(&stale)).await);
    assert!(matches!(deleted, Ok(()) | Err(StoreError::ReceiptExpired)), "{deleted:?}");
    let extended = only(broker.extend(&queue, &[(stale, LONG)]).await);
    assert!(matches!(extended, Err(StoreError::ReceiptExpired)), "{extended:?}");
    assert_nothing_is_there(broker, &queue).await;
    time.advance(SHORT).await;
    receive(broker, &queue, LONG, time).await;
}

async fn a_receipt_of_a_deleted_message_cannot_extend(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    send(broker, &queue, "gone").await;
    let receipt = receive(broker, &queue, LONG, time).await.receipt;
    only(broker.delete(&queue, std::slice::from_ref(&receipt)).await).unwrap();
    let extended = only(broker.extend(&queue, &[(receipt, SHORT)]).await);
    assert!(matches!(extended, Err(StoreError::ReceiptExpired)), "{extended:?}");
}

async fn no_extension_hides_a_message_past_the_limit_counted_from_its_receive(
    broker: &dyn Broker,
    time: &dyn Clockwork,
) {
    let max = broker.limits().visibility_max;
    if time.reach() < max {
        return;
    }
    let queue = queue(broker).await;
    send(broker, &queue, "twelve hours").await;
    let delivery = receive(broker, &queue, max, time).await;
    time.advance(max / 2).await;
    // Whether it is refused or cut short: the message is back when the limit has passed.
    broker.extend(&queue, &[(delivery.receipt, max)]).await;
    time.advance(max / 2 - 2 * SECOND).await;
    assert_nothing_is_there(broker, &queue).await;
    time.advance(2 * SECOND).await;
    receive(broker, &queue, LONG, time).await;
}

async fn a_delayed_message_arrives_after_its_delay(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    let sent = OutgoingMessage { delay: SHORT, ..message("later") };
    only(broker.send(&queue, &[sent]).await).unwrap();
    assert_nothing_is_there(broker, &queue).await;
    time.advance(SHORT - 2 * SECOND).await;
    assert_nothing_is_there(broker, &queue).await;
    time.advance(2 * SECOND).await;
    assert_eq!(receive(broker, &queue, LONG, time).await.receive_count, 1);
}

async fn a_receive_brings_at_most_what_was_asked(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    let messages: Vec<OutgoingMessage> = (0..5).map(|n| message(&format!("{n}"))).collect();
    assert!(broker.send(&queue, &messages).await.iter().all(Result::is_ok));
    let mut bodies = BTreeSet::new();
    eventually_so(time, "not all messages are delivered", async || {
        let received = broker.receive(&queue, 2, LONG, NO_WAIT).await.unwrap();
        assert!(received.len() <= 2, "{} messages", received.len());
        bodies.extend(received.into_iter().map(|delivery| delivery.body));
        // Without lag each look brings two.
        if bodies.len() < 5 && time.lag().is_zero() {
            let received = broker.receive(&queue, 2, LONG, NO_WAIT).await.unwrap();
            bodies.extend(received.into_iter().map(|delivery| delivery.body));
            let received = broker.receive(&queue, 2, LONG, NO_WAIT).await.unwrap();
            bodies.extend(received.into_iter().map(|delivery| delivery.body));
        }
        bodies.len() == 5
    })
    .await;
}

async fn many_messages_are_sent_in_one_call_and_each_is_delivered_once(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    let count = broker.limits().batch_max * 2 + 3;
    let messages: Vec<OutgoingMessage> = (0..count).map(|n| message(&format!("message {n}"))).collect();
    let answers = broker.send(&queue, &messages).await;
    assert_eq!(answers.len(), count);
    let ids: BTreeSet<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), count);
    let delivered = drain(broker, &queue, count, time).await;
    let expected: BTreeSet<_> = messages.into_iter().map(|message| message.body).collect();
    assert_eq!(delivered.iter().map(|delivery| delivery.body.clone()).collect::<BTreeSet<_>>(), expected);
    assert_eq!(delivered.len(), count);
    let receipts: Vec<_> = delivered.into_iter().map(|delivery| delivery.receipt).collect();
    let deleted = broker.delete(&queue, &receipts).await;
    assert!(deleted.len() == count && deleted.iter().all(Result::is_ok), "{deleted:?}");
    assert_nothing_is_there(broker, &queue).await;
}

/// Receives until so many have come.
async fn drain(broker: &dyn Broker, queue: &QueueName, count: usize, time: &dyn Clockwork) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        let received = eventually(time, "not all messages are delivered", async || {
            let received = broker.receive(queue, broker.limits().batch_max, LONG, NO_WAIT).await.unwrap();
            (!received.is_empty()).then_some(received)
        });
        all.extend(received.await);
    }
    all
}

async fn receivers_at_the_same_time_share_the_messages(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    let messages: Vec<OutgoingMessage> = (0..40).map(|n| message(&format!("{n}"))).collect();
    assert!(broker.send(&queue, &messages).await.iter().all(Result::is_ok));
    let receives = (0..8).map(|_| broker.receive(&queue, 5, LONG, NO_WAIT));
    let mut bodies: Vec<String> = Vec::new();
    for received in join_all(receives).await {
        bodies.extend(received.unwrap().into_iter().map(|delivery| delivery.body));
    }
    let rest = drain(broker, &queue, 40 - bodies.len(), time).await;
    bodies.extend(rest.into_iter().map(|delivery| delivery.body));
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 40, "one message went to two receivers");
}

async fn each_message_of_a_send_is_answered_by_itself(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    let too_large = message(&"x".repeat(broker.limits().message_bytes_max + 1));
    let answers = broker.send(&queue, &[message("first"), too_large, message("third")]).await;
    assert_eq!(answers.len(), 3);
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert_invalid(&answers[1]);
    let bodies: BTreeSet<_> = drain(broker, &queue, 2, time).await.into_iter().map(|delivery| delivery.body).collect();
    assert_eq!(bodies, BTreeSet::from(["first".to_owned(), "third".to_owned()]));
}

async fn a_message_over_a_limit_is_refused(broker: &dyn Broker) {
    let queue = queue(broker).await;
    let limits = broker.limits();
    let attributes = (0..=limits.attributes_max).map(|n| (format!("a{n}"), "x".to_owned())).collect();
    let over = [
        message(&"x".repeat(limits.message_bytes_max + 1)),
        OutgoingMessage {
            attributes: [("a".into(), "x".into())].into(),
            ..message(&"x".repeat(limits.message_bytes_max))
        },
        message(""),
        message("a\u{1}b"),
        OutgoingMessage { delay: limits.delay_max + SECOND, ..message("x") },
        OutgoingMessage { attributes, ..message("x") },
        OutgoingMessage { group: Some("g".repeat(limits.key_chars_max + 1)), ..message("x") },
        OutgoingMessage { deduplication: Some(String::new()), ..message("x") },
    ];
    for message in over {
        assert_invalid(&only(broker.send(&queue, std::slice::from_ref(&message)).await));
    }
    assert_nothing_is_there(broker, &queue).await;
    let largest = message(&"x".repeat(limits.message_bytes_max));
    let longest = OutgoingMessage { delay: limits.delay_max, ..message("x") };
    for answer in broker.send(&queue, &[largest, longest]).await {
        answer.unwrap();
    }
}

async fn a_receive_over_a_limit_is_refused(broker: &dyn Broker) {
    let queue = queue(broker).await;
    let limits = broker.limits();
    assert_invalid(&broker.receive(&queue, 0, SHORT, NO_WAIT).await);
    assert_invalid(&broker.receive(&queue, 1, limits.visibility_max + SECOND, NO_WAIT).await);
    assert_invalid(&broker.receive(&queue, 1, SHORT, limits.wait_max + SECOND).await);
}

async fn a_message_received_too_often_moves_to_the_dead_letters(broker: &dyn Broker, time: &dyn Clockwork) {
    let (queue, dead) = (new_queue(), new_queue());
    declare(broker, &dead, None).await;
    declare(broker, &queue, Some((2, &dead))).await;
    send(broker, &queue, "again and again").await;
    for count in 1..=2 {
        assert_eq!(receive(broker, &queue, SECOND, time).await.receive_count, count);
        time.advance(SECOND).await;
    }
    let moved = eventually(time, "nothing is moved", async || {
        // It moves when somebody asks for it again.
        assert_nothing_is_there(broker, &queue).await;
        broker.receive(&dead, 1, SHORT, NO_WAIT).await.unwrap().pop()
    });
    assert_eq!(moved.await.body, "again and again");
}

async fn a_purge_removes_every_message(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    for body in ["visible", "hidden"] {
        send(broker, &queue, body).await;
    }
    only(broker.send(&queue, &[OutgoingMessage { delay: SHORT, ..message("delayed") }]).await).unwrap();
    receive(broker, &queue, SHORT, time).await;
    let count = broker.purge(&queue).await.unwrap();
    assert!(count <= 3, "{count} messages of three");
    eventually_so(time, "messages are left", async || broker.counts(&queue).await.unwrap().is_empty()).await;
    time.advance(SHORT).await;
    assert_nothing_is_there(broker, &queue).await;
}

async fn counts_tell_visible_hidden_and_delayed_apart(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    assert!(broker.counts(&queue).await.unwrap().is_empty());
    for body in ["one", "two", "three"] {
        send(broker, &queue, body).await;
    }
    only(broker.send(&queue, &[OutgoingMessage { delay: LONG, ..message("later") }]).await).unwrap();
    receive(broker, &queue, LONG, time).await;
    eventually_so(time, "two are visible, one is in flight, one is delayed", async || {
        let counts = broker.counts(&queue).await.unwrap();
        (counts.visible, counts.in_flight, counts.delayed) == (2, 1, 1)
    })
    .await;
}

async fn a_long_poll_wakes_at_a_send(broker: &dyn Broker) {
    let queue = queue(broker).await;
    let poll = broker.receive(&queue, 1, SHORT, broker.limits().wait_max);
    let (received, ()) = tokio::join!(poll, send(broker, &queue, "here"));
    assert_eq!(only(received.unwrap()).body, "here");
}

async fn a_long_poll_wakes_when_a_message_becomes_visible_again(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    send(broker, &queue, "back").await;
    let delivery = receive(broker, &queue, 2 * SECOND, time).await;
    let poll = broker.receive(&queue, 1, SHORT, broker.limits().wait_max);
    let again = only(while_time_passes(time, poll).await.unwrap());
    assert_eq!((again.message, again.receive_count), (delivery.message, 2));
}

async fn a_long_poll_with_nothing_to_bring_ends_after_its_wait(broker: &dyn Broker, time: &dyn Clockwork) {
    let queue = queue(broker).await;
    let received = while_time_passes(time, broker.receive(&queue, 1, SHORT, 2 * SECOND)).await;
    assert!(received.unwrap().is_empty());
}

async fn a_queue_is_declared_as_often_as_wanted(broker: &dyn Broker) {
    let queue = queue(broker).await;
    declare(broker, &queue, None).await;
}

async fn a_queue_that_does_not_exist_is_named(broker: &dyn Broker) {
    let queue = new_queue();
    let sent = only(broker.send(&queue, &[message("to nowhere")]).await);
    assert!(matches!(&sent, Err(StoreError::NoQueue(named)) if *named == queue), "{sent:?}");
    let received = broker.receive(&queue, 1, SHORT, NO_WAIT).await;
    assert!(matches!(&received, Err(StoreError::NoQueue(named)) if *named == queue), "{received:?}");
}
