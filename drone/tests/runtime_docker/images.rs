//! Pull policies, logins, shared pulls and every way a pull fails, against a registry on loopback. Not its business:
//! what is run from an image.

use std::time::Duration;

use futures_util::TryStreamExt;
use jetway_drone::runtime::docker::{DockerConfig, DockerRuntime};
use jetway_drone::runtime::{ImageError, Runtime, RuntimeError};
use jetway_protocol::image::Reference;
use jetway_protocol::spec::{Credentials, Executable, PullPolicy};
use jetway_service::lifecycle::Lifecycle;
use jetway_testkit::soon;

use crate::registry::Registry;
use crate::support::{Bed, DEADLINE, import_image, on_docker};

fn executable(image: &str, policy: PullPolicy) -> Executable {
    Executable { pull_policy: policy, ..Executable::of_image(image) }
}

async fn remove(bed: &Bed, image: &str) {
    let options = None::<bollard::query_parameters::RemoveImageOptions>;
    bed.engine.docker().remove_image(image, options, None).await.unwrap();
}

#[tokio::test]
async fn policies_say_when_to_pull() {
    on_docker(
        |_| (),
        |bed| async move {
            let registry = Registry::start(None, true).await;
            let image = registry.image("v");
            let never = executable(&image, PullPolicy::Never);
            let absent = bed.runtime.ensure_image(&never).await;
            assert!(matches!(absent, Err(ImageError::AbsentAndNever { .. })), "{absent:?}");
            let if_absent = executable(&image, PullPolicy::IfNotPresent);
            let pulled = bed.runtime.ensure_image(&if_absent).await.unwrap();
            assert_eq!((pulled.stop_signal, pulled.user.as_str()), (3, "7"));
            // The containerd store does not say how large a small layer is.
            let is_told = bed.runtime.facts().storage_driver != "overlayfs";
            assert_eq!(pulled.pulled.unwrap().0, if is_told { registry.layer_bytes() } else { 0 });
            assert_eq!(bed.runtime.ensure_image(&if_absent).await.unwrap().pulled, None);
            assert_eq!(bed.runtime.ensure_image(&never).await.unwrap().id, pulled.id);
            let asked = registry.manifests_asked();
            let always = executable(&image, PullPolicy::Always);
            assert_eq!(bed.runtime.ensure_image(&always).await.unwrap().id, pulled.id);
            assert!(registry.manifests_asked() > asked);
            let by_id = executable(&pulled.id, PullPolicy::Always);
            assert_eq!(bed.runtime.ensure_image(&by_id).await.unwrap().id, pulled.id);
            soon("listed", || bed.runtime.images().contains(&image)).await;
            remove(&bed, &image).await;
            soon("not listed", || !bed.runtime.images().contains(&image)).await;
            let gone = bed.runtime.ensure_image(&never).await;
            assert!(matches!(gone, Err(ImageError::AbsentAndNever { .. })), "{gone:?}");
            registry.stop().await;
        },
    )
    .await;
}

/// Without a registry: an engine that is asked for an image says whether it takes the name for one.
/// What is a name for us is one for every engine; the other way round there are the exceptions that
/// `protocol/src/image.rs` names.
#[tokio::test]
async fn the_engine_agrees_on_what_is_a_name() {
    on_docker(
        |_| (),
        |bed| async move {
            let [hex, tag, name] = [64, 128, 237].map(|length| "a".repeat(length));
            let mut names: Vec<String> = [
                "a",
                "a:1",
                "a._b",
                "a.b",
                "a_b",
                "a__b",
                "a___b",
                "a--b",
                "a-.b",
                "a-",
                "a:",
                "a:-t",
                "a:_t",
                "Team/app",
                "A",
                "reg.example/A",
                "REG.example/a",
                "localhost/a",
                "localhost:5000/a",
                "a:5000",
                "reg.example:99999/a",
                "reg.example:/a",
                "reg-.example/a",
                "-reg.example/a",
                "reg_x.example/a",
                "reg..example/a",
                "docker.io/a",
                "index.docker.io/library/a",
                "a:b:c",
                "a@",
                "a b",
                "a..b",
                "sha256:abc",
            ]
            .map(str::to_owned)
            .into();
            names.extend([hex.clone(), format!("sha256:{hex}"), format!("library/{hex}")]);
            names.extend(["", ":t", ":T"].map(|tag| format!("a{tag}@sha256:{hex}")));
            names.extend(["sha512", "md5", "sha1"].map(|kind| format!("a@{kind}:{hex}")));
            names.extend([format!("a@sha512:{hex}{hex}"), format!("a@sha256:{}", hex.to_uppercase())]);
            names.extend([format!("a:{tag}"), format!("a:{tag}a"), name.clone(), format!("{name}a")]);
            for name in names {
                // "a" is also the start of an image's id: an image that happens to have it is found.
                let message = match bed.engine.get(&format!("/images/{name}/json"), &[]).await {
                    Ok(_) => "found".to_owned(),
                    Err(RuntimeError::Refused(message)) => message,
                    Err(error) => panic!("{name}: {error:?}"),
                };
                let is_name = !["invalid", "must be lowercase", "must not be more", "unsupported digest"]
                    .iter()
                    .any(|sign| message.contains(sign));
                let is_ours = Reference::parse(&name).is_ok();
                let is_exception = ["Team/app", "sha256:abc"].contains(&name.as_str()) || name.len() == 238;
                assert!(is_ours == is_name || (is_name && is_exception), "{name}: {message}");
            }
        },
    )
    .await;
}

#[tokio::test]
async fn one_pull_is_shared_and_outlives_who_asked() {
    on_docker(
        |_| (),
        |bed| async move {
            let registry = Registry::start(None, false).await;
            let executable = executable(&registry.image("v"), PullPolicy::IfNotPresent);
            // The first goes away before the end.
            let first =
                tokio::time::timeout(Duration::from_secs(1), bed.runtime.ensure_image(&executable)).await;
            assert!(first.is_err());
            soon("the layer is asked for", || registry.layers_asked() > 0).await;
            assert_eq!(bed.runtime.pulls().len(), 1);
            assert!(bed.runtime.pull_progress(&executable).is_some(), "whoever looks sees how far it is");
            let asks = async {
                tokio::join!(
                    bed.runtime.ensure_image(&executable),
                    bed.runtime.ensure_image(&executable),
                    async {
                        tokio::task::yield_now().await;
                        registry.open();
                    }
                )
            };
            let (one, other, ()) = tokio::time::timeout(DEADLINE, asks).await.expect("the pull ends");
            assert_eq!(one.unwrap(), other.unwrap());
            assert_eq!(registry.layers_asked(), 1);
            assert_eq!(bed.runtime.pulls().len(), 0);
            remove(&bed, &registry.image("v")).await;
            registry.stop().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_login_is_the_specs() {
    on_docker(
        |_| (),
        |bed| async move {
            // In the ordinary base64 alphabet this login has + and /, which the engine does not read.
            let (username, password) = ("me", "???>>>~~~ÿÿÿ");
            let registry = Registry::start(Some(&format!("{username}:{password}")), true).await;
            let image = registry.image("v");
            let mut executable = executable(&image, PullPolicy::IfNotPresent);
            let refused = bed.runtime.ensure_image(&executable).await;
            assert!(matches!(refused, Err(ImageError::PullFailed { .. })), "{refused:?}");
            let login = |password: &str| {
                Some(Credentials { username: username.to_owned(), password: password.to_owned() })
            };
            executable.credentials = login("wrong");
            let refused = bed.runtime.ensure_image(&executable).await;
            assert!(matches!(refused, Err(ImageError::PullFailed { .. })), "{refused:?}");
            executable.credentials = login(password);
            bed.runtime.ensure_image(&executable).await.unwrap();
            remove(&bed, &image).await;
            registry.stop().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_login_comes_from_dockers_own_file() {
    let directory = std::env::temp_dir().join(format!("jw-login-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&directory).unwrap();
    // SAFETY: nextest gives each test a process of its own, and nothing else reads the environment yet.
    unsafe { std::env::set_var("DOCKER_CONFIG", &directory) };
    let configuration = directory.join("config.json");
    on_docker(
        |_| (),
        |bed| async move {
            let registry = Registry::start(Some("me:se:cret"), true).await;
            let image = registry.image("v");
            let auth = data_encoding::BASE64.encode(b"me:se:cret");
            let server = registry.address.to_string();
            let content = serde_json::json!({"auths": {server: {"auth": auth}}}).to_string();
            std::fs::write(&configuration, content).unwrap();
            bed.runtime.ensure_image(&executable(&image, PullPolicy::IfNotPresent)).await.unwrap();
            remove(&bed, &image).await;
            registry.stop().await;
        },
    )
    .await;
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn failures_are_told_apart_in_good_time() {
    let impatient = |config: &mut DockerConfig| config.pull_stall = Duration::from_secs(2);
    on_docker(impatient, |bed| async move {
        let ask = async |image: &str| {
            let ask = bed.runtime.ensure_image(&executable(image, PullPolicy::IfNotPresent)).await;
            ask.unwrap_err()
        };
        let registry = Registry::start(None, false).await;
        let unknown = ask(&registry.image("unknown")).await;
        assert!(matches!(&unknown, ImageError::NotFound { .. }), "{unknown}");
        let stalled = ask(&registry.image("v")).await;
        assert!(
            matches!(&stalled, ImageError::PullFailed { reason, .. } if reason.contains("2 s")),
            "{stalled}"
        );
        registry.stop().await;
        let nobody = ask(&registry.image("v")).await;
        assert!(matches!(&nobody, ImageError::PullFailed { .. }), "{nobody}");
        for odd in ["", "UPPER", "../../containers/json", "a b", "x?force=1"] {
            let error = ask(odd).await;
            assert!(matches!(&error, ImageError::NotFound { .. }), "{error}");
        }
        let by_id = ask(&format!("sha256:{}", "0".repeat(64))).await;
        assert!(matches!(&by_id, ImageError::NotFound { .. }), "{by_id}");
    })
    .await;
}

/// As an engine is left by drones that made the image at once.
#[tokio::test]
async fn an_image_of_sandboxes_without_a_name_is_removed() {
    on_docker(
        |_| (),
        |bed| async move {
            let name = format!("{}-nameless:t", bed.image.split(':').next().unwrap());
            import_image(&bed.engine, &name, &["LABEL jetway.role=sandbox"]).await;
            let found = bed.engine.get(&format!("/images/{name}/json"), &[]).await.unwrap();
            let path = format!("/images/{}/json", found["Id"].as_str().unwrap());
            import_image(&bed.engine, &name, &[]).await;
            // Another test's drone may be quicker.
            if let Ok(lost) = bed.engine.get(&path, &[]).await {
                assert_eq!(lost["RepoTags"].as_array().map(Vec::len), Some(0), "it has lost its name");
            }
            let lifecycle = Lifecycle::new();
            drop(DockerRuntime::connect(bed.config.clone(), &lifecycle).await.unwrap());
            assert!(lifecycle.stop().await);
            let gone = bed.engine.get(&path, &[]).await;
            assert!(matches!(gone, Err(RuntimeError::Refused(_))), "{gone:?}");
            bed.remove_image(&name).await;
        },
    )
    .await;
}

/// Every disk is more than one hundredth full; and what nobody needs goes in order, but nothing else does.
#[tokio::test]
async fn on_a_full_disk_what_this_drone_pulled_and_nobody_needs_is_removed() {
    on_docker(
        |config| config.image_gc_percent = 1,
        |bed| async move {
            let registries = [Registry::start(None, true).await, Registry::start(None, true).await];
            let more = [Registry::start(None, true).await, Registry::start(None, true).await];
            let [old, recent] = registries.each_ref().map(|registry| registry.image("v"));
            let [kept, others] = more.each_ref().map(|registry| registry.image("v"));
            let ensure = async |image: &str, policy| {
                bed.runtime.ensure_image(&executable(image, policy)).await.unwrap()
            };
            // Brought by somebody else, and pulled again by the drone: it is still not the drone's.
            let docker = bed.engine.docker();
            let pull = bollard::query_parameters::CreateImageOptionsBuilder::default();
            let pull = pull.from_image(others.strip_suffix(":v").unwrap()).tag("v").build();
            docker.create_image(Some(pull), None, None).try_for_each(|_| async { Ok(()) }).await.unwrap();
            ensure(&others, PullPolicy::Always).await;
            for image in [&recent, &old, &kept] {
                ensure(image, PullPolicy::IfNotPresent).await;
            }
            ensure(&recent, PullPolicy::IfNotPresent).await;

            // Any moment now a container may be made of what was used just now.
            assert_eq!(bed.runtime.collect_images(&[]).await.unwrap(), Vec::<String>::new());
            // A later agent knows what an earlier one pulled, and the order of use. A container that was only made has its image, too.
            let mut request = bed.request(&["serve"]);
            request.executable.image = recent.clone();
            request.image = ensure(&recent, PullPolicy::Never).await;
            bed.runtime.create(&request).await.unwrap();
            let lifecycle = Lifecycle::new();
            let later = async |percent| {
                let config = DockerConfig { image_gc_percent: percent, ..bed.config.clone() };
                DockerRuntime::connect(config, &lifecycle).await.unwrap()
            };
            let never = later(0).await;
            assert_eq!(never.collect_images(&[]).await.unwrap(), Vec::<String>::new());
            let second = later(1).await;
            assert_eq!(second.collect_images(std::slice::from_ref(&kept)).await.unwrap(), [old.as_str()]);
            bed.runtime.remove(request.slot).await.unwrap();
            assert_eq!(second.collect_images(&[]).await.unwrap(), [kept.as_str(), recent.as_str()]);
            assert_eq!(second.collect_images(&[]).await.unwrap(), Vec::<String>::new());
            for gone in [&old, &recent, &kept] {
                let looked = bed.runtime.ensure_image(&executable(gone, PullPolicy::Never)).await;
                assert!(matches!(looked, Err(ImageError::AbsentAndNever { .. })), "{looked:?}");
            }
            ensure(&others, PullPolicy::Never).await;
            assert!(lifecycle.stop().await);
            remove(&bed, &others).await;
            for registry in registries.iter().chain(&more) {
                registry.stop().await;
            }
        },
    )
    .await;
}
