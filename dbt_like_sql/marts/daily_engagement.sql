with days as (
    select unnest(generate_series(date '{{ var("first_dt") }}', date '{{ var("last_dt") }}', interval 1 day))::date as dt
),

actions as (
    select
        dt,
        count(distinct user_id) as users,
        count(distinct pin_id) as pins,
        count(*) as actions,
        count(*) filter (where action = 'repin') as repins,
        count(*) filter (where action = 'click') as clicks,
        count(*) filter (where action = 'hide') as hides
    from {{ ref('actions') }}
    where dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
    group by dt
),

impressions as (
    select
        dt,
        count(*) as impressions
    from {{ ref('impressions') }}
    where dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
    group by dt
)

select
    d.dt,
    coalesce(a.users, 0) as users,
    coalesce(a.pins, 0) as pins,
    coalesce(a.actions, 0) as actions,
    coalesce(a.repins, 0) as repins,
    coalesce(a.clicks, 0) as clicks,
    coalesce(a.hides, 0) as hides,
    coalesce(i.impressions, 0) as impressions,
    coalesce(a.actions, 0) / nullif(i.impressions, 0) as actions_per_impression
from days as d
left join actions as a on d.dt = a.dt
left join impressions as i on d.dt = i.dt
