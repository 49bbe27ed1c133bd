use loom::thread;

use super::*;

#[test]
fn loom_no_more_than_the_cap_and_every_place_comes_back() {
    loom::model(|| {
        let now = Instant::now();
        let admission = Admission::new(AdmissionConfig::default().max_concurrent(1)).unwrap();
        let other = admission.clone();
        let thread = thread::spawn(move || other.try_admit(now).ok());
        let mine = admission.try_admit(now).ok();
        let theirs = thread.join().unwrap();
        assert!(mine.is_some() != theirs.is_some());
        drop((mine, theirs));
        assert_eq!(admission.in_flight(), 0);
    });
}

#[test]
fn loom_the_rate_holds_and_nothing_is_wasted() {
    loom::model(|| {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let rate = Arc::new(Rate::new(2, second).unwrap());
        rate.try_admit(start).unwrap();
        let other = Arc::clone(&rate);
        let thread = thread::spawn(move || other.try_admit(start + second / 2).is_ok());
        let mine = rate.try_admit(start + second / 2).is_ok();
        let theirs = thread.join().unwrap();
        // One more fits into the first second, not two; and of two there is one that gets in.
        assert!(mine != theirs);
        assert!(rate.try_admit(start + second).is_ok());
        assert!(rate.try_admit(start + second).is_err());
    });
}
